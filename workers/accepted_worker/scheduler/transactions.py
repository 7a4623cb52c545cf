"""Jobs that others submit in their own transactions: the relay is woken, their queues are named, and they are counted.

Their commit notifies this loop. A lost notification costs a job `LONGEST_PAUSE` of the relay, and on a queue without a
row of its own at most `UNHEARD`.
"""

import asyncio
import time
from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.concurrency import set_within
from accepted.metrics import count_accepted
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import queue_tenants
from accepted.storage.db.engine import transaction
from accepted.storage.db.notifications import Listener
from accepted.storage.jobs import transactional

UNHEARD = 5.0
"""Seconds between rounds without a notification."""

BATCH_SIZE = 1000
"""Jobs that are counted in one transaction."""

SHARE = 20
"""Rounds take at most 1 part in this many of the time. While somebody holds a transaction open, each passes the rows
that were deleted since."""


class TransactionalSubmissions:
    """Does for jobs of `accepted.submit` what the API does for its own, after their commit and in no order."""

    name = "transactions"

    def __init__(
        self, engine: AsyncEngine, url: str, measurements: Measurements, wake_relay: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._measurements = measurements
        self._wake_relay = wake_relay
        self._listener = Listener(url, transactional.CHANNEL, self._on_commit)
        self._committed = asyncio.Event()
        self._took = 0.0

    async def run_once(self) -> int:
        self._committed.clear()
        started = time.monotonic()
        async with transaction(self._engine) as conn:
            jobs = await transactional.take(conn, BATCH_SIZE)
            await queue_tenants.announce(conn, {(queue, tenant) for tenant, queue, _ in jobs})
            await conn.commit()
        self._measurements.accepted_of(jobs)
        count_accepted(jobs)
        self._took = time.monotonic() - started
        return jobs.total()

    def pause(self, done: int) -> float:
        return 0.0 if done == BATCH_SIZE else UNHEARD

    async def listen(self) -> None:
        await self._listener.run()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, self._took * SHARE))
        await set_within(seconds, self._committed)

    def _on_commit(self, _: str) -> None:
        self._wake_relay()
        self._committed.set()
