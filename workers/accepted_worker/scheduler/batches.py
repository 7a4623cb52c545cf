"""The batches loop: adds up the moves of members, finishes batches whose members have all ended, and cancels batches.

It also releases and cancels the jobs behind an end that has more of them than one transaction should change.
"""

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.services.batches.ending import BatchCanceller, add_up
from accepted.services.jobs.completion import finish_ends
from accepted.storage import batch_ends
from accepted.storage.db.statements import Direct

EVERY = 0.25
"""Seconds. A batch finishes at most this much after its last job."""

CANCELS = 20
"""Batches that are cancelled at the same time."""


class BatchLoop:
    """Deletes the rows that it adds up, finishes by a guarded statement, and skips members that others have locked."""

    name = "batches"

    def __init__(self, engine: AsyncEngine, broker: Broker, polls: Direct) -> None:
        self._engine = engine
        self._polls = polls
        self._broker = broker
        self._canceller = BatchCanceller(engine, broker)
        self._busy = False

    async def run_once(self) -> int:
        async with self._polls.statements() as conn:
            to_do = await batch_ends.to_do(conn, CANCELS)
        told = await add_up(self._engine, self._broker) if to_do.moves else 0
        cancelled = await self._canceller.cancel_some_of_each(to_do.cancels)
        finished = await finish_ends(self._engine, self._broker) if to_do.unfinished else 0
        self._busy = told + finished > 0 or any(map(self._canceller.is_under_way, to_do.cancels))
        return told + finished + cancelled

    def pause(self, done: int) -> float:
        return 0.0 if self._busy else EVERY
