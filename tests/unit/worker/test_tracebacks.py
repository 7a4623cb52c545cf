"""The recorded traceback of a handler: limited in size, without values, and without the worker's own frames."""

import asyncio
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from accepted.context import EndRequest
from accepted.domain.references import Lease
from accepted_worker.attempt import failures
from accepted_worker.attempt.handler_call import CalledAttempt, CallOutcome, HandlerCall
from accepted_worker.attempt.slots import OrphanedHandlers
from accepted_worker.attempt.threads import Threads

ATTEMPT = CalledAttempt("noop", Lease(UUID(int=1), 1, UUID(int=2)))


async def called(handler: object) -> BaseException:
    """The exception of a handler, as it comes out of a worker's thread."""
    orphans = OrphanedHandlers()
    threads = Threads(1, orphans)
    call = HandlerCall(lambda: threads.call(handler, 30), ATTEMPT, EndRequest(), orphans, interruptible=False)  # type: ignore[arg-type]
    outcome = await call.wait(30)
    threads.close()
    assert isinstance(outcome, CallOutcome)
    assert outcome.error is not None
    return outcome.error


def raising(text: str = "a message") -> None:
    secret = "Canary" + "Value"
    assert secret
    raise ValueError(text)


def deep(left: int) -> None:
    if left:
        return other(left - 1)
    raise ValueError("at the bottom")


def other(left: int) -> None:
    return deep(left)


async def test_it_begins_with_the_handler() -> None:
    text = failures.traceback_of(await called(raising)) or ""
    first = next(line for line in text.splitlines() if line.startswith("  File"))
    assert __file__ in first
    assert "in raising" in first
    assert text.endswith("ValueError: a message\n")
    assert "CanaryValue" not in text


async def test_causes_are_included() -> None:
    def handler() -> None:
        try:
            raising("the cause")
        except ValueError as error:
            raise RuntimeError("the effect") from error

    text = failures.traceback_of(await called(handler)) or ""
    assert text.index("the cause") < text.index("direct cause") < text.index("the effect")


async def test_of_a_deep_recursion_the_end_is_kept() -> None:
    text = failures.traceback_of(await called(lambda: deep(400))) or ""
    assert len(text.encode()) <= failures.MAX_TRACEBACK_BYTES
    assert text.endswith("at the bottom\n")


def test_an_exception_of_our_own_has_none() -> None:
    assert failures.traceback_of(ValueError("never raised")) is None


@given(st.text(alphabet=st.characters(), max_size=30).map(lambda text: text * 1500))
def test_any_message_fits_the_ledger(message: str) -> None:
    error = asyncio.run(called(lambda: raising(message)))
    text = failures.traceback_of(error) or ""
    assert len(text.encode()) <= failures.MAX_TRACEBACK_BYTES
    assert "\0" not in text
