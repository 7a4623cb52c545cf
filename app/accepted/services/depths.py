"""Queues that hold at most `max_depth` waiting jobs: checked at submission, for those queues only.

How much waits is counted in the background, and what this process lets pass meanwhile is added. Nobody is refused on
that alone: at the limit it is counted anew. So one process keeps to the limit exactly, and several together go past it
by what the others let pass between two looks at most.
"""

import time
from collections.abc import Iterable, Mapping

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.errors import QueueFull
from accepted.storage import queue_load
from accepted.storage.db.engine import reading

LOOK_AGAIN = 0.25
"""Seconds for which a queue that was found full is full: a flood of refusals is not to be a flood of counting."""


class _Depth:
    """One queue: `passed` jobs since it was counted, of which `pending` may be in no count yet."""

    def __init__(self) -> None:
        self.most = 0
        self.waiting = 0
        self.passed = 0
        self.pending = 0
        self.looked_at = -LOOK_AGAIN

    def is_over(self, jobs: int) -> bool:
        return self.waiting + self.passed + jobs > self.most

    def counted(self, waiting: int, passed: int, pending: int) -> None:
        """`waiting` were counted by a look that began when so many had `passed` and were `pending`."""
        self.waiting = waiting
        self.passed += pending - passed


class Depths:
    """The depths of one API process."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._of: dict[str, _Depth] = {}

    def concern(self, queues: Iterable[str]) -> bool:
        """Whether one of these has a limit."""
        return bool(self._of) and any(queue in self._of for queue in queues)

    async def refresh(self) -> None:
        """Read which limits there are, and count. Raises `LedgerUnavailable`."""
        before = {queue: (depth.passed, depth.pending) for queue, depth in self._of.items()}
        async with reading(self._engine) as conn:
            found = await queue_load.depths(conn)
        known, self._of = self._of, {}
        for one in found:
            depth = self._of[one.queue] = known.get(one.queue) or _Depth()
            depth.most = one.limit
            depth.counted(one.waiting, *before.get(one.queue, (0, 0)))

    async def enter(self, jobs: Mapping[str, int]) -> None:
        """Let so many jobs, by queue, pass. Raises `QueueFull`; if it does not, `leave` follows."""
        limited = [(queue, self._of[queue], count) for queue, count in jobs.items() if queue in self._of]
        for queue, depth, count in limited:
            if depth.is_over(count):
                await self._look(queue, depth)
        for queue, depth, count in limited:
            if depth.is_over(count):
                raise QueueFull(f"queue {queue} takes no more than {depth.most} waiting jobs")
        for _, depth, count in limited:
            depth.passed += count
            depth.pending += count

    def leave(self, jobs: Mapping[str, int]) -> None:
        """What passed is in the ledger now, or will not be."""
        for queue, count in jobs.items():
            if queue in self._of:
                self._of[queue].pending = max(self._of[queue].pending - count, 0)

    async def _look(self, queue: str, depth: _Depth) -> None:
        now = time.monotonic()
        if now - depth.looked_at < LOOK_AGAIN:
            return
        depth.looked_at, passed, pending = now, depth.passed, depth.pending
        async with reading(self._engine) as conn:
            depth.counted(await queue_load.waiting(conn, queue, depth.most), passed, pending)
