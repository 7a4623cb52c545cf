"""One call of a handler: it ends by itself, or is told to end. Whatever it raises is a value, and harms no other job.

The call is a task of its own, so that an exception that would end the process (`SystemExit`), or that looks like a
cancel of the worker's, is an outcome like any other. A handler that does not end when it is told to becomes an orphan.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from enum import Enum, auto
from typing import Any, NamedTuple

from accepted.context import EndRequest
from accepted.domain.references import Lease
from accepted_worker.attempt.slots import OrphanedHandlers

CLEANUP_SECONDS = 1.0
"""Seconds that a handler has to clean up once it is told to end. Less than the 2 s that a cancel and the handing back
of jobs may take."""

ORPHAN_CLEANUP_SECONDS = 10.0
"""Seconds more before an orphaned coroutine counts as hanging: its `finally` may be slow."""


class CallOutcome(NamedTuple):
    """What a call returned or raised."""

    result: object = None
    error: BaseException | None = None

    def unwrap(self) -> Any:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.result


class EndReason(Enum):
    """Why a call was told to end."""

    TIMEOUT = auto()
    CANCELLED = auto()
    STOPPING = auto()


class CalledAttempt(NamedTuple):
    """The attempt that a call belongs to."""

    type: str
    lease: Lease


class HandlerTask(asyncio.Task[Any]):
    """A task of a handler: that of the call, or one that the handler has started."""

    def __init__(self, work: Coroutine[Any, Any, Any], attempt: CalledAttempt, **options: Any) -> None:
        self.attempt = attempt
        super().__init__(work, **options)


class HandlerCall:
    """Starts `call` of `attempt` at once. One that is not `interruptible` is only asked to end when its job is
    cancelled."""

    def __init__(
        self,
        call: Callable[[], Coroutine[Any, Any, object]],
        attempt: CalledAttempt,
        ending: EndRequest,
        orphans: OrphanedHandlers,
        *,
        interruptible: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = ending
        self._orphans = orphans
        self._interruptible = interruptible
        self._end_reason: EndReason | None = None
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._task = HandlerTask(_call_handler(call, attempt), attempt, loop=self._loop)
        self._task.add_done_callback(self._finish)

    @property
    def end_reason(self) -> EndReason | None:
        """Why the call was told to end. None if it was not, or if the handler never noticed."""
        if self._end_reason is None and self._ending.noticed:
            return EndReason.CANCELLED
        return self._end_reason

    async def wait(self, seconds: float) -> CallOutcome | None:
        """Wait for the end, for up to `seconds`; None if there is no outcome. Cancelling this ends the call as well."""
        timer = self._loop.call_later(seconds, self._interrupt, EndReason.TIMEOUT)
        try:
            await self._finished
        except asyncio.CancelledError:
            self._interrupt(EndReason.STOPPING)
            await asyncio.wait({self._task}, timeout=CLEANUP_SECONDS)
        finally:
            timer.cancel()
        if not self._task.done():
            self._orphans.add(self._task, "task", allowed=ORPHAN_CLEANUP_SECONDS)
            return None
        return None if self._task.cancelled() else self._task.result()

    def cancel(self) -> None:
        """The job was cancelled: end the call, or ask for its end."""
        if self._interruptible:
            self._interrupt(EndReason.CANCELLED)
        else:
            self._ending.asked = True

    def _interrupt(self, reason: EndReason) -> None:
        if self._end_reason is None and not self._task.done():
            self._end_reason = reason
            self._ending.asked = True
            self._task.cancel()
            self._loop.call_later(CLEANUP_SECONDS, self._finish)

    def _finish(self, _: object = None) -> None:
        if not self._finished.done():
            self._finished.set_result(None)


async def outcome_of(work: Coroutine[Any, Any, object]) -> CallOutcome:
    """Await `work`; never raises, because some exceptions would end the loop, and one looks like our own cancel."""
    try:
        return CallOutcome(await work)
    except BaseException as error:
        return CallOutcome(error=error)


_CALLED: ContextVar["CalledAttempt | None"] = ContextVar("_CALLED", default=None)


async def _call_handler(call: Callable[[], Coroutine[Any, Any, object]], attempt: CalledAttempt) -> CallOutcome:
    _CALLED.set(attempt)
    return await outcome_of(call())


def task_factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
    """The task factory of a worker's event loop: no task that a handler starts can end the loop.

    asyncio stops its loop when a task raises `SystemExit` or `KeyboardInterrupt`, even if the handler awaits that task
    (`gather`, `TaskGroup`). In the tasks of a handler these become a `RuntimeError`.
    """
    attempt = _CALLED.get()
    if attempt is None or not asyncio.iscoroutine(work):
        return asyncio.Task(work, loop=loop, **options)
    task = HandlerTask(_without_exit(work), attempt, loop=loop, **options)
    task.add_done_callback(lambda _: work.close())  # a task that is cancelled before it starts never awaits `work`
    return task


async def _without_exit(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
