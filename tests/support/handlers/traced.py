"""Handlers that make spans of their own: `ACCEPTED_HANDLERS=accepted_worker.handlers,tests.support.handlers.traced`."""

from opentelemetry import trace

from accepted import Context, Retry, TransientError, job

TRACER = trace.get_tracer("a handler's own")
SECRET = "what the handler was given"


async def charge() -> str:
    with TRACER.start_as_current_span("own in a step"):
        return "charged"


@job("traced.steps", retry=Retry(max_attempts=2, schedule=[0.1], jitter=0))
async def steps(payload: dict[str, str], ctx: Context) -> None:
    """Charges once, fails once, and submits a child."""
    with TRACER.start_as_current_span("own"):
        await ctx.step("charge", charge)
    if ctx.job.attempt == 1:
        raise TransientError(SECRET)
    await ctx.submit("traced.thread", {})


@job("traced.thread")
def thread(payload: dict[str, str], ctx: Context) -> None:
    """In a thread."""
    with TRACER.start_as_current_span("own in a thread"):
        return
