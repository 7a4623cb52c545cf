"""Batches: told of the ends of their members, and finished when all of them have ended."""

from sqlalchemy.ext.asyncio import AsyncEngine

from app.broker.base import Broker
from app.services import batch_ends

EVERY = 0.25
"""Seconds. So much later than its last job a batch may finish."""


class Batches:
    """Deletes what it adds up, and finishes by a guarded statement: each end counts once, each batch finishes once."""

    name = "batches"

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker

    async def run_once(self) -> int:
        return await batch_ends.add_up(self._engine, self._broker)

    def pause(self, done: int) -> float:
        return 0.0 if done else EVERY
