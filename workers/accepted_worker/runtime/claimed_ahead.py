"""Jobs that a lane has claimed before it has a free slot for them.

A claim and an outcome of a hundred jobs cost little more than those of one. So with short jobs a lane claims more of
them than it has free slots: as many as begin within the next `WINDOW`, by the mean run time and by how many have ended
within the last one. With long jobs that is none.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from accepted.services.jobs.claiming import Delivery
from accepted.services.jobs.completion import MAX_BATCH

WINDOW = 0.05
"""Seconds. About so long a job that was claimed ahead waits for its slot."""

TICK = 0.025
"""Seconds between looks at the jobs that wait."""

PATIENCE = 4
"""Ticks in which no job begins until those that wait go back: longer jobs than before have the slots, and another
worker may be free. A process that gets no CPU for a while has one tick in that time, not many."""

LONGEST = 40
"""Ticks that a job waits, however many begin."""

MOST = MAX_BATCH
"""Jobs that a lane has claimed ahead, at most."""

WEIGHT = 1 / 16
"""Of the latest run time in the mean. A single long job among short ones counts for some 50 of them."""


class ClaimedAhead:
    """The jobs that wait for a slot, the oldest first. `late` is given those that have waited too long."""

    def __init__(self, slots: int, late: Callable[[list[Delivery]], None]) -> None:
        self._slots = slots
        self._late = late
        self._run_time = WINDOW
        self._waiting: deque[tuple[int, Delivery]] = deque()
        self._tick = self._last_begun = 0
        self._timer: asyncio.TimerHandle | None = None
        self._window = self._ended = self._ended_before = 0

    @property
    def room(self) -> int:
        """How many more to claim ahead. 0 until half of them have begun, so that the next claim is a large one."""
        self._move_on()
        allowed = min(max(self._ended, self._ended_before), int(self._slots * WINDOW / self._run_time), MOST)
        return allowed - len(self._waiting) if 2 * len(self._waiting) <= allowed else 0

    def count_ended(self, seconds: float) -> None:
        """An attempt has ended that ran for so long."""
        self._run_time += (max(seconds, 1e-6) - self._run_time) * WEIGHT
        self._move_on()
        self._ended += 1

    def add(self, delivery: Delivery) -> None:
        """It waits for a slot."""
        self._waiting.append((self._tick, delivery))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._look)

    def take(self) -> Delivery | None:
        """The job that a slot is free for now."""
        self._last_begun = self._tick
        return self._waiting.popleft()[1] if self._waiting else None

    def take_all(self) -> list[Delivery]:
        """The jobs that will not begin here."""
        taken = [delivery for _, delivery in self._waiting]
        self._waiting.clear()
        return taken

    def _look(self) -> None:
        self._tick += 1
        begun = self._last_begun > self._tick - PATIENCE
        until = self._tick - (LONGEST if begun else PATIENCE)
        late = []
        while self._waiting and self._waiting[0][0] <= until:
            late.append(self._waiting.popleft()[1])
        self._timer = asyncio.get_running_loop().call_later(TICK, self._look) if self._waiting else None
        if late:
            self._late(late)

    def _move_on(self) -> None:
        window = int(asyncio.get_running_loop().time() / WINDOW)
        if window != self._window:
            self._ended_before = self._ended if window == self._window + 1 else 0
            self._window, self._ended = window, 0
