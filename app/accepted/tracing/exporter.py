"""OpenTelemetry's SDK with an exporter over OTLP. Loaded only where spans are exported.

Endpoint, headers, certificates, sampler, limits and batches are those of the standard OTEL_… variables, which the SDK
reads. A program that has set a provider of its own before (`opentelemetry-instrument`) keeps it.
"""

import os
import threading
import uuid

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

import accepted
from accepted.tracing.sampling import HeadSampling

LAST_EXPORT = 3.0
"""Seconds for the last export of a process that ends. An endpoint that is away takes longer, and is not waited for."""

_provider: TracerProvider | None = None


class ChosenIds(RandomIdGenerator):
    """Random ids; that of a root is the one for which `HeadSampling` has decided."""

    def __init__(self) -> None:
        self.sampling: HeadSampling | None = None

    def generate_trace_id(self) -> int:
        sampling = self.sampling
        if sampling is None or sampling.chosen is None:
            return super().generate_trace_id()
        trace_id, sampling.chosen = sampling.chosen, None
        return trace_id


def start(process: str) -> tuple[trace.Tracer, HeadSampling]:
    """The tracer, which exports in a thread of its own, and what is known of its sampler."""
    global _provider
    ids = ChosenIds()
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        _provider = TracerProvider(resource=_resource(process), shutdown_on_exit=False, id_generator=ids)
        _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(_provider)
    ids.sampling = HeadSampling("" if _provider is None else _provider.sampler.get_description())
    return trace.get_tracer("accepted", accepted.__version__), ids.sampling


def stop() -> None:
    if _provider is not None:
        exporting = threading.Thread(target=_provider.force_flush, daemon=True)
        exporting.start()
        exporting.join(LAST_EXPORT)


def _resource(process: str) -> Resource:
    """The environment wins: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`."""
    ours = Resource(
        {
            "service.namespace": "accepted",
            "service.name": f"accepted-{process}",
            "service.version": accepted.__version__,
            "service.instance.id": str(uuid.uuid4()),
            "process.pid": os.getpid(),
        }
    )
    return ours.merge(_from_environment())


def _from_environment() -> Resource:
    """`Resource.create` names a service that has no name, and that name would win over ours."""
    given = Resource.create()
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return given if named else Resource({name: v for name, v in given.attributes.items() if name != "service.name"})
