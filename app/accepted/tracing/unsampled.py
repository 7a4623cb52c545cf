"""The current span of a handler whose attempt is not sampled: spans of its own are not either."""

from opentelemetry import context, trace

from accepted.tracing.context import read


def enter(traceparent: str) -> None:
    """For the rest of this task, and for what it starts."""
    context.attach(trace.set_span_in_context(_Unsampled(traceparent), context.Context()))


class _Unsampled(trace.NonRecordingSpan):
    """Reads its traceparent only if a handler makes a span, because hardly any does."""

    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent

    def get_span_context(self) -> trace.SpanContext:
        return read(self._traceparent)
