"""The sampler: counts every few seconds what waits and runs on each queue. Rates and sizing come from it."""

import time

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.storage import queue_load
from accepted.storage.db import periodic_locks
from accepted.storage.db.engine import transaction

SHARE = 50
"""A count may take one part in so many of the time, so that counting a huge backlog is no load of its own."""


class Sampler:
    """Any number of schedulers may run: the one that takes the periodic lock counts."""

    name = "sampler"

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._took = 0.0

    async def run_once(self) -> int:
        started = time.monotonic()
        async with transaction(self._engine) as conn:
            sampled = 0
            if await periodic_locks.take(conn, self.name, queue_load.BIN * 0.9):
                sampled = await queue_load.sample(conn)
            await conn.commit()
        self._took = time.monotonic() - started
        return sampled

    def pause(self, done: int) -> float:
        return max(queue_load.BIN, self._took * SHARE)
