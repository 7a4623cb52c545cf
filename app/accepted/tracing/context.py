"""The W3C trace context: where it comes from, and what is sent on.

Where no span is made, what the caller or the submitter has sent is sent on, as the W3C asks.
"""

from contextvars import ContextVar
from typing import TYPE_CHECKING

from accepted.tracing import setup

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

_sent_on: ContextVar[str | None] = ContextVar("sent_on", default=None)


def send_on(traceparent: str | None) -> None:
    """What this task calls from now on gets this in place of a span of ours; None: that of the current span."""
    _sent_on.set(traceparent)


def sent_on() -> str | None:
    """What was given to `send_on`."""
    return _sent_on.get()


def traceparent(otherwise: str | None = None) -> str | None:
    """What was given to `send_on`, or that of the current span, or `otherwise`."""
    if (kept := _sent_on.get()) is not None:
        return kept
    if setup.tracer() is not None:
        from opentelemetry import trace

        current = trace.get_current_span().get_span_context()
        if current.is_valid:
            return written(current)
    return otherwise


def written(context: "SpanContext") -> str:
    """Version 00 of the header, with the flag for sampled traces."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"


def read(value: str) -> "SpanContext":
    """Of a valid traceparent (`accepted.domain.references.is_traceparent`)."""
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace_id, span_id, flags = value.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def within(remote: "SpanContext | None") -> "Context":
    """The context whose current span is this remote one; None: the root of a trace."""
    from opentelemetry import trace
    from opentelemetry.context import Context

    if remote is None:
        return Context()
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), Context())
