"""What asyncio does not have: batches of concurrent calls, shared deadlines, fair turns for long computations."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from time import perf_counter
from types import TracebackType
from typing import Any, Generic, TypeVar

from accepted.correlation import apart
from accepted.errors import AcceptedError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

SLICE = 0.003
"""Seconds that a long computation may keep the event loop. A request needs about ten turns of the loop, so it waits
about 30 ms at worst."""


class Coalescer(Generic[Item, Answer]):
    """Turns concurrent calls into batches, because a commit costs the same for one row and for five hundred.

    Calls `flush` with up to `max_batch` items, in at most `parallel` flushes at once. `flush` returns one answer an
    item, in order; an answer that is an exception is raised to that item's caller. After a batch of several items, the
    next batch waits `linger` seconds to grow.

    A call starts a batch at the end of the current turn of the event loop, so under light load nothing waits. Calls
    during a flush form the next batch; those whose callers have given up are left out. When a batch fails for a reason
    that may lie in one item, each item is tried alone, so only the bad one fails. An `AcceptedError` fails all of them.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        max_batch: int,
        parallel: int = 1,
        linger: float = 0.0,
    ) -> None:
        self._flush = flush
        self._max_batch = max_batch
        self._free = parallel
        self._linger = linger
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = False

    def __call__(self, item: Item) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        if self._free and not self._starting:
            self._starting = True
            loop.call_soon(self._start, context=apart())  # a batch is not its first caller's alone
        return future

    def _start(self) -> None:
        self._starting = False
        if self._free and self._waiting:
            self._free -= 1
            task = asyncio.ensure_future(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
                if batch := [member for member in taken if not member[1].done()]:
                    await self._settle(batch)
                if self._linger and 1 < len(batch) < self._max_batch:
                    await asyncio.sleep(self._linger)
        finally:
            self._free += 1

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._flush([item for item, _ in batch])
            answered = list(zip(batch, answers, strict=True))
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:
            if len(batch) == 1 or isinstance(error, AcceptedError):
                for _, future in batch:
                    _resolve(future, error)
                return
            for member in batch:
                await self._settle([member])
            return
        for (_, future), answer in answered:
            _resolve(future, answer)


def _resolve(future: "asyncio.Future[Answer]", answer: Answer | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


class Deadlines:
    """Sets the exception of `late()` on every added future that is not done after `seconds`.

    One timer serves all of them: in a busy process a timer each costs more than the work waited for.
    """

    def __init__(self, seconds: float, late: Callable[[], Exception]) -> None:
        self._seconds = seconds
        self._late = late
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, future: "asyncio.Future[Any]") -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        self._waiting.append((loop.time() + self._seconds, future))
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._waiting:
            due, future = self._waiting[0]
            if not future.done():
                if due > loop.time():
                    self._timer = loop.call_at(due, self._expire)
                    return
                future.set_exception(self._late())
            self._waiting.popleft()


class TimeSlices:
    """Long computations on the event loop take turns, so other requests wait for one slice, not for all of them.

    `async with` waits for the turn; call `pause` between the steps of the computation.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._since = 0.0

    async def __aenter__(self) -> "TimeSlices":
        await self._turn.acquire()
        self._since = perf_counter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turn.release()

    async def pause(self) -> None:
        """Let the event loop run other work if this slice is used up."""
        if perf_counter() - self._since > SLICE:
            await asyncio.sleep(0)
            self._since = perf_counter()

    async def through(self, steps: Generator[None, None, Answer]) -> Answer:
        """Take every step, with pauses. Call it in a turn."""
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            await self.pause()


def cancel_requested() -> bool:
    """Whether the current task was cancelled, even if no `CancelledError` was raised in it.

    `asyncio.wait_for` before Python 3.12, and code in aiormq, lose a cancel that arrives just as the awaited thing is
    done. A loop must ask this once a turn, because otherwise it may never end.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def set_within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for `event`, so many seconds at most. Returns whether it is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


_late: set[asyncio.Task[Any]] = set()


async def done_within(seconds: float, *tasks: asyncio.Task[Any]) -> None:
    """Wait so many seconds for the tasks, and cancel those that are late. It does not wait for these to end."""
    _, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        _late.add(task)
        task.add_done_callback(_late.discard)
        task.cancel()


async def late_tasks_ended() -> None:
    """Wait until the tasks that `done_within` has cancelled have ended."""
    while _late:
        await asyncio.wait(_late)
