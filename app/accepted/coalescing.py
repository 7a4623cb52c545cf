"""Turning concurrent calls into batches, because a commit costs the same for one row and for five hundred.

A call made while nothing is under way starts a batch at the end of the current event-loop turn, so light load
waits for nothing; calls made meanwhile form the next batch, except those whose caller has given up by then. When
a batch fails for a reason that may lie in one member, each member is tried alone, so that a poisoned one fails by
itself.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from accepted.errors import AcceptedError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Coalescer(Generic[Item, Answer]):
    """Calls `flush` with up to `most` items at a time, in at most `lanes` flushes at once.

    `flush` returns one answer an item, in order; an answer that is an exception is raised to that item's caller.
    After a batch of several, `linger` is how many seconds the next one waits to grow.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        most: int,
        lanes: int = 1,
        linger: float = 0.0,
    ) -> None:
        self._flush = flush
        self._most = most
        self._free_lanes = lanes
        self._linger = linger
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = False

    def __call__(self, item: Item) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        if self._free_lanes and not self._starting:
            self._starting = True
            loop.call_soon(self._start)
        return future

    def _start(self) -> None:
        self._starting = False
        if self._free_lanes and self._waiting:
            self._free_lanes -= 1
            task = asyncio.ensure_future(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                if batch := [member for member in taken if not member[1].done()]:
                    await self._settle(batch)
                if self._linger and 1 < len(batch) < self._most:
                    await asyncio.sleep(self._linger)
        finally:
            self._free_lanes += 1

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
