"""Spans of a job on its way, by the conventions of messaging: `send <queue>` where it is accepted, and for each attempt
`process <queue>`, from claim to commit, with the handler's run and its steps below it.

The context of `send` is the creation context. It is stored with the job, so it outlives broker, retries and restarts.
A trace that is not sampled has no spans below its first one.
"""

import msgspec

from accepted.domain.failures import FailureClass
from accepted.domain.job import Job, NewJob
from accepted.tracing import context, setup
from accepted.tracing.spans import NONE, OpenSpan

SYSTEM = "accepted"
"""`messaging.system`: the queues are ours, on either broker."""

_FAILURES = frozenset(FailureClass) - {FailureClass.CANCELLED}
"""Outcomes that are errors. A cancel is what somebody wanted."""


def sending(job: NewJob) -> tuple[OpenSpan, NewJob]:
    """A span for the acceptance of `job`, below the request, and the job with the context to store."""
    tracer = setup.tracer()
    if tracer is None:
        return NONE, job
    if (kept := context.sent_on()) is not None:
        return NONE, msgspec.structs.replace(job, traceparent=kept)
    from opentelemetry import trace

    attributes = _attributes("send", job)
    span = tracer.start_span(f"send {job.queue}", kind=trace.SpanKind.PRODUCER, attributes=attributes)
    return OpenSpan(span), msgspec.structs.replace(job, traceparent=context.written(span.get_span_context()))


def processing(job: Job, traceparent: str | None) -> OpenSpan:
    """A span for an attempt, from its claim to the commit of its outcome. Linked to the creation context, and in its
    trace: whoever looks at the submission finds the attempts."""
    tracer = setup.tracer()
    dropped = traceparent if tracer is None else setup.dropped(traceparent)
    context.send_on(dropped)
    if tracer is None:
        return NONE
    if dropped is not None:
        from accepted.tracing import unsampled

        unsampled.enter(dropped)
        return NONE
    from opentelemetry.trace import Link, SpanKind

    creation = None if traceparent is None else context.read(traceparent)
    return OpenSpan(
        tracer.start_span(
            f"process {job.queue}", context.within(creation), SpanKind.CONSUMER,
            _attributes("process", job) | {"accepted.job.attempt": job.attempt},
            [] if creation is None else [Link(creation)],
        )
    )  # fmt: skip


def below(name: str) -> OpenSpan:
    """A span below the current one, which is not made if that is not sampled."""
    tracer = setup.tracer()
    if tracer is None or context.sent_on() is not None:
        return NONE
    from opentelemetry import trace

    if not trace.get_current_span().is_recording():
        return NONE
    return OpenSpan(tracer.start_span(name))


def ended(span: OpenSpan, outcome: str) -> None:
    """Say how an attempt ended. A failure's class is `error.type`."""
    span.describe({"accepted.attempt.outcome": outcome})
    if outcome in _FAILURES:
        span.failed(outcome)


def _attributes(operation: str, job: NewJob | Job) -> dict[str, str | int]:
    return {
        "messaging.system": SYSTEM, "messaging.operation.name": operation, "messaging.operation.type": operation,
        "messaging.destination.name": job.queue, "messaging.message.id": str(job.id),
        "accepted.job.type": job.type, "accepted.tenant": job.tenant,
    }  # fmt: skip
