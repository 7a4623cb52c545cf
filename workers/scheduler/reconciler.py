"""The reconciler: what the ledger says is on the road and the broker has lost is published again.

It compares numbers, not messages: for each queue, references published a while ago and not claimed, against what
the broker has. The oldest of the surplus go back to the relay. Some of them may not be the lost ones; their
doubles are harmless, and the lost ones become the oldest in their turn.

And the other way round: jobs that are leased over HTTP leave their references behind. Where no worker consumes them,
nobody would ever drop them, and the queue would grow for ever.
"""

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from app.broker.base import Broker
from app.storage import outbox
from app.storage.engine import reading, transaction

EVERY = 10.0
SETTLED = 15.0
"""Seconds after which a published reference is either on its queue or claimed. With `EVERY` and the relay's round,
a wiped queue is back well within the minute that the contract gives."""

MOST = 10_000

STALE = 1000
"""References left behind on a queue before it is cleared; and not before they outnumber those that are good, which are
then published again: so clearing costs less than what it clears."""

log = structlog.get_logger(__name__)


class Reconciler:
    """Does nothing where the ledger is the road."""

    name = "reconciler"

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker

    async def run_once(self) -> int:
        if self._broker.handoff is None:
            return 0
        async with reading(self._engine) as conn:
            expected = await outbox.on_the_road(conn, SETTLED)
            leased = await outbox.leased(conn)
        for queue, good in leased.items():
            await self._clear(queue, good)
        if not expected:
            return 0
        there = await self._broker.depths(expected)
        return sum([await self._restore(queue, count - there[queue]) for queue, count in expected.items()])

    def pause(self, done: int) -> float:
        return EVERY

    async def _clear(self, queue: str, good: int) -> None:
        cleared = await self._broker.clear(queue, good + max(good, STALE))
        if cleared:
            log.info("references_cleared", queue=queue, count=cleared)

    async def _restore(self, queue: str, missing: int) -> int:
        if missing <= 0:
            return 0
        async with transaction(self._engine) as conn:
            done = await outbox.publish_again(conn, queue, SETTLED, min(missing, MOST))
            await conn.commit()
        log.warning("references_lost", queue=queue, published_again=done)
        return done
