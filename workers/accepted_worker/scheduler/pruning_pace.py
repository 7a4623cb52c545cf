"""How fast the pruner goes: at full speed while little else is written, gently beside submissions.

On a machine of few cores they notice each large step. It can always delete several times what is written, so the ledger
does not grow.
"""

import time

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.storage import pruning
from accepted.storage.db.engine import reading

LARGE = 1000
"""Rows that a statement looks at, so that no lock is held for long. It takes some 50 ms, and the rest as long."""

SMALL = 100

LOOK_EVERY = 1.0
"""Seconds between two looks at what is written. PostgreSQL counts it with a delay of up to a second."""

QUIET = 10.0
"""Writes of jobs a second from which on others are at work. A job is three: accepted, claimed, ended."""

TIMES_WRITES = 3.0
LEAST = 1000.0
MOST_GENTLE = 3000.0
"""Jobs a second that small steps delete: `TIMES_WRITES` as many as are written, and `LEAST` anyway. Where that is more
than `MOST_GENTLE`, the steps are large: the ledger must not grow."""


class PruningPace:
    """Begins gently, because nothing is known about the others then."""

    def __init__(self) -> None:
        self._seen: tuple[float, int] | None = None
        self._target: float | None = LEAST

    @property
    def limit(self) -> int:
        """Rows of the next step."""
        return LARGE if self._target is None else SMALL

    async def look(self, engine: AsyncEngine) -> None:
        """Look at what others write now."""
        now = time.monotonic()
        if self._seen is not None and now < self._seen[0] + LOOK_EVERY:
            return
        async with reading(engine) as conn:
            written = await pruning.jobs_written(conn)
        if self._seen is not None:
            self._target = target((written - self._seen[1]) / (now - self._seen[0]))
        self._seen = now, written

    def rest(self, took: float, deleted: int) -> float:
        """Seconds until the next step, after one that took so many and deleted so many rows."""
        return took if self._target is None else max(2 * took, deleted / self._target)


def target(writes: float) -> float | None:
    """Jobs to delete a second with small steps; None: as many as go, with large ones."""
    wanted = TIMES_WRITES * writes
    return None if writes < QUIET or wanted > MOST_GENTLE else max(wanted, LEAST)
