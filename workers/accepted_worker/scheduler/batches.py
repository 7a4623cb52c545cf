"""The batches loop: counts the ends of members, finishes batches whose members have all ended, and cancels batches."""

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.services.batches.ending import BatchCanceller, add_up
from accepted.storage import batch_ends
from accepted.storage.db.statements import Direct

EVERY = 0.25
"""Seconds. A batch finishes at most this much after its last job."""

CANCELS = 20
"""Batches that are cancelled at the same time."""


class BatchLoop:
    """Deletes the rows that it counts, finishes by a guarded statement, and skips members that others have locked."""

    name = "batches"

    def __init__(self, engine: AsyncEngine, broker: Broker, polls: Direct) -> None:
        self._engine = engine
        self._polls = polls
        self._broker = broker
        self._canceller = BatchCanceller(engine, broker)
        self._busy = False

    async def run_once(self) -> int:
        async with self._polls.statements() as conn:
            ends, cancels = await batch_ends.to_do(conn, CANCELS)
        told = await add_up(self._engine, self._broker) if ends else 0
        cancelled = await self._canceller.cancel_some_of_each(cancels)
        self._busy = told > 0 or any(map(self._canceller.is_under_way, cancels))
        return told + cancelled

    def pause(self, done: int) -> float:
        return 0.0 if self._busy else EVERY
