"""The loop that counts the queues for the metrics: one scheduler at a time, the same one for as long as it does it."""

import time

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.queue_figures import FIGURES, SHOWN, QueueFigure
from accepted.services.queues import UNFINISHED
from accepted.storage import queues
from accepted.storage.counts import backlogs, letter_groups
from accepted.storage.counts.backlogs import Backlog
from accepted.storage.db import periodic_locks
from accepted.storage.db.engine import transaction
from accepted.storage.db.statements import Connection

EVERY = 5.0
"""Seconds between two counts. Past `backlogs.EXACT` waiting jobs a count is that of the sampler."""

KEPT = SHOWN - 2.0
"""Seconds for which the lock stays with the scheduler that took it: less than `SHOWN`, after which another may take
it, so that no two believe to have it."""


class Figures:
    """Counts while it has the periodic lock. Another takes it once nobody has counted for `SHOWN` seconds."""

    name = "figures"

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._took = float("-inf")

    async def run_once(self) -> int:
        now = time.monotonic()
        has_it = now - self._took < KEPT
        async with transaction(self._engine) as conn:
            if not await periodic_locks.take(conn, self.name, EVERY / 2 if has_it else SHOWN):
                return 0
            counted = await _count(conn)
            await conn.commit()
        self._took = now
        FIGURES.show(counted, now)
        return len(counted)

    def pause(self, done: int) -> float:
        return EVERY


async def _count(conn: Connection) -> dict[str, QueueFigure]:
    found, _ = await backlogs.backlogs(conn, None, None)
    letters = await letter_groups.by_queue(conn)
    names = {*await queues.names(conn), *found, *letters}
    return {name: _figure(found.get(name, Backlog()), letters.get(name, 0)) for name in names}


def _figure(backlog: Backlog, letters: int) -> QueueFigure:
    jobs = {str(status): backlog.counts.get(status, 0) for status in UNFINISHED}
    return QueueFigure(jobs, max(backlog.oldest or 0.0, 0.0), letters)
