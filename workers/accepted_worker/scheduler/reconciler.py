"""The reconciler: publishes again what the ledger has as published and the broker has lost.

It compares numbers, not messages: for each queue, references published and not claimed, against what the broker has.
The oldest of the surplus go back to the relay, if they were published a while ago. Some of them may not be the lost
ones; their doubles are harmless, and the lost ones become the oldest in their turn.

And the other way round: jobs that are leased over HTTP leave their references behind. Where no worker consumes them,
nobody would ever drop them, and the queue would grow for ever.
"""

import time
from collections.abc import Iterable

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.storage.db.engine import reading, transaction
from accepted.storage.jobs import outbox

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
    """Does nothing where the ledger is the broker."""

    name = "reconciler"

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker

    async def run_once(self) -> int:
        if self._broker.is_ledger:
            return 0
        async with reading(self._engine) as conn:
            expected = await outbox.unclaimed(conn, SETTLED)
            leased = await outbox.leased(conn)
        for queue, good in leased.items():
            await self._clear(queue, good)
        if not expected:
            return 0
        missing = await self._missing(expected)
        return sum([await self._restore(queue, min(old, missing[queue])) for queue, old in expected.items()])

    def pause(self, done: int) -> float:
        return EVERY

    async def _missing(self, queues: Iterable[str]) -> dict[str, int]:
        """By queue, how many more published references, of any age, the ledger has than the broker.

        The young ones count, or a lasting load would make up for what was lost. The ledger is asked last, and for what
        was published before the broker was asked: then what is claimed or published meanwhile never looks lost.
        """
        asked = time.monotonic()
        there = await self._broker.depths(queues)
        async with reading(self._engine) as conn:
            unclaimed = await outbox.unclaimed(conn, time.monotonic() - asked)
        return {queue: unclaimed.get(queue, 0) - there[queue] for queue in queues}

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
