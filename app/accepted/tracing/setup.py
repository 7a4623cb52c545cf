"""Whether this process makes spans, and with what: the tracer, and its exporter over OTLP."""

import os
from typing import TYPE_CHECKING

from accepted import extras
from accepted.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from accepted.tracing.sampling import HeadSampling

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
"""The first that is set counts (OpenTelemetry Protocol Exporter, configuration options)."""

EXPORTER = "OTEL_TRACES_EXPORTER"

HTTP = "http/protobuf"

_tracer: "Tracer | None" = None
_sampling: "HeadSampling | None" = None


def tracer() -> "Tracer | None":
    """The tracer of this process; None: it makes no spans."""
    return _tracer


def dropped(parent: str | None) -> str | None:
    """As `HeadSampling.dropped`, with the sampler of this process."""
    return None if _sampling is None else _sampling.dropped(parent)


def start(process: str) -> None:
    """Make spans, if an exporter is configured. `process`: api or worker. Raises `ConfigurationError`."""
    global _tracer, _sampling
    if not _is_wanted():
        return
    try:
        from accepted.tracing import exporter
    except ModuleNotFoundError as missing:
        raise ConfigurationError(f"{_given(ENDPOINTS)} is set, and {_lacks(missing)}") from None
    _tracer, _sampling = exporter.start(process)


def stop() -> None:
    """Export what is left, for a few seconds at most, and make no more spans."""
    global _tracer, _sampling
    if _tracer is None:
        return
    from accepted.tracing import exporter

    _tracer = _sampling = None
    exporter.stop()


def _is_wanted() -> bool:
    """Raises `ConfigurationError` for what this package cannot do."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or _given(ENDPOINTS) is None:
        return False
    wanted = os.environ.get(EXPORTER, "").strip() or "otlp"
    if wanted == "none":
        return False
    if wanted != "otlp":
        raise ConfigurationError(f"{EXPORTER}={wanted!r}: spans are exported by otlp, or not at all (none)")
    named = _given(PROTOCOLS)
    if named is not None and os.environ[named].strip() != HTTP:
        raise ConfigurationError(f"{named}={os.environ[named]!r}: the protocol of spans is {HTTP}")
    return True


def _given(names: tuple[str, ...]) -> str | None:
    return next((name for name in names if os.environ.get(name, "").strip()), None)


def _lacks(missing: ModuleNotFoundError) -> str:
    return f"{missing.name} is not installed: {extras.command('otel')}"
