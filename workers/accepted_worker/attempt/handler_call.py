"""One call of a handler, which ends by itself or is told to end, and takes nobody along whatever it raises.

The call is a task of its own. So an exception that would end a process (`SystemExit`), or that looks like our own
cancelling, is an outcome like others; and a handler that will not end becomes an orphan: nobody waits for it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from enum import Enum, auto
from typing import Any, NamedTuple

from accepted.context import EndRequest
from accepted_worker.attempt.slots import OrphanedHandlers

PATIENCE = 1.0
"""Seconds that a handler has to clean up once it is told to end. Under the 2 s of a cancel and of a hand-back."""


CLEANING_UP = 10.0
"""Seconds more for an orphan, before it is taken to hang: it may be slow with its `finally`."""


class Ended(NamedTuple):
    """What a call came to: its result, or what it raised."""

    result: object = None
    error: BaseException | None = None


class Why(Enum):
    """Why a call was told to end."""

    TIMEOUT = auto()
    CANCELLED = auto()
    STOPPING = auto()


class Run:
    """`call` begins at once. One that is not `interruptible` is only asked when its job is cancelled."""

    def __init__(
        self,
        call: Callable[[], Coroutine[Any, Any, object]],
        ending: EndRequest,
        orphans: OrphanedHandlers,
        *,
        interruptible: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = ending
        self._orphans = orphans
        self._interruptible = interruptible
        self._why: Why | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._call = self._loop.create_task(_of_a_handler(call))
        self._call.add_done_callback(self._end)

    @property
    def told_to_end(self) -> Why | None:
        """Why the call did not end by itself, as far as it noticed."""
        if self._why is None and self._ending.noticed:
            return Why.CANCELLED
        return self._why

    async def within(self, seconds: float) -> Ended | None:
        """Wait for the end, at most so long; None if nothing came of it. Cancelling this stops the call as well."""
        timer = self._loop.call_later(seconds, self._interrupt, Why.TIMEOUT)
        try:
            await self._over
        except asyncio.CancelledError:
            self._interrupt(Why.STOPPING)
            await asyncio.wait({self._call}, timeout=PATIENCE)
        finally:
            timer.cancel()
        if not self._call.done():
            self._orphans.add(self._call, "task", allowed=CLEANING_UP)
            return None
        return None if self._call.cancelled() else self._call.result()

    def cancel(self) -> None:
        """The job was cancelled."""
        if self._interruptible:
            self._interrupt(Why.CANCELLED)
        else:
            self._ending.asked = True

    def _interrupt(self, why: Why) -> None:
        if self._why is None and not self._call.done():
            self._why = why
            self._ending.asked = True
            self._call.cancel()
            self._loop.call_later(PATIENCE, self._end)

    def _end(self, _: object = None) -> None:
        if not self._over.done():
            self._over.set_result(None)


_OF_A_HANDLER: ContextVar[bool] = ContextVar("_OF_A_HANDLER", default=False)


def containing(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> "asyncio.Task[Any]":
    """A task factory. asyncio ends the loop, whoever awaits the task, when one raises `SystemExit` or
    `KeyboardInterrupt`: in the tasks that a handler starts (`gather`, `TaskGroup`) they are errors like others."""
    if _OF_A_HANDLER.get() and asyncio.iscoroutine(work):
        work = _ExitingNobody(work)
    return asyncio.Task(work, loop=loop, **more)


class _ExitingNobody(Coroutine[Any, Any, Any]):
    """`work`, step by step: a coroutine around it would leave it unawaited when the task is cancelled early."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work

    def send(self, value: Any) -> Any:
        return self._step(self._work.send, value)

    def throw(self, *raised: Any) -> Any:
        return self._step(self._work.throw, *raised)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()

    def __getattr__(self, name: str) -> Any:
        """Frames and state: anyio looks at those of a task that has not started."""
        return getattr(self._work, name)

    def _step(self, step: Callable[..., Any], *given: Any) -> Any:
        try:
            return step(*given)
        except (SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error


async def contained(work: Coroutine[Any, Any, object]) -> Ended:
    """What `work` comes to, as a value: some exceptions would end the loop, and one looks like a cancel of our own."""
    try:
        return Ended(await work)
    except BaseException as error:
        return Ended(error=error)


async def _of_a_handler(call: Callable[[], Coroutine[Any, Any, object]]) -> Ended:
    _OF_A_HANDLER.set(True)
    return await contained(call())
