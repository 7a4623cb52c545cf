"""A receiver of traces over OTLP/HTTP, which decodes them with the protocol's own messages."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.servers.receiver import Receiver


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it came in, with the attributes of its process."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list[str]
    attributes: dict[str, Any]
    resource: dict[str, Any]
    failed: bool
    seconds: float


class TraceReceiver(Receiver):
    """`ENDPOINT` of the exporter is its `url`."""

    def spans(self, trace_id: str | None = None) -> list[ReceivedSpan]:
        """Those of this trace, or all, in the order of their names."""
        found = [span for request in list(self.requests) for span in _decoded(request.body)]
        return sorted((one for one in found if trace_id in (None, one.trace_id)), key=lambda one: one.name)


def _decoded(body: bytes) -> Iterator[ReceivedSpan]:
    message = ExportTraceServiceRequest.FromString(body)
    for process in message.resource_spans:
        resource = _values(process.resource.attributes)
        for scope in process.scope_spans:
            for span in scope.spans:
                yield ReceivedSpan(
                    name=span.name, kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(), span_id=span.span_id.hex(), parent_id=span.parent_span_id.hex(),
                    links=[link.span_id.hex() for link in span.links], attributes=_values(span.attributes),
                    resource=resource, failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                )  # fmt: skip


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
