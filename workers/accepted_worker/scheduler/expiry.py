"""Expiry: a job that was not started by its `expires_at` ends as `expired`, and its webhook says so."""

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.services.jobs.completion import MAX_BATCH, expire
from accepted.storage.db.statements import Direct
from accepted.storage.jobs import outbox

EVERY = 1.0


class Expiry:
    """Locks what it expires and passes over what others hold."""

    name = "expiry"

    def __init__(self, engine: AsyncEngine, broker: Broker, polls: Direct) -> None:
        self._engine = engine
        self._polls = polls
        self._broker = broker

    async def run_once(self) -> int:
        async with self._polls.statements() as conn:
            late = await outbox.any_late(conn)
        return await expire(self._engine, self._broker, MAX_BATCH) if late else 0

    def pause(self, done: int) -> float:
        return 0.0 if done == MAX_BATCH else EVERY
