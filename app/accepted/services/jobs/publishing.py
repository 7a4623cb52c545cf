"""Publishing committed references and marking their outbox rows. Used by submitters and by the relay."""

import asyncio
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import logs
from accepted.broker.base import Broker
from accepted.domain.references import JobRef
from accepted.errors import LedgerUnavailable
from accepted.metrics import REFS_PUBLISHED
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import outbox

HANDOFF = 1.0
"""Seconds within which the process that committed a row publishes it; from then on the relay does."""


def handoff(broker: Broker, *, publishes: bool) -> float | None:
    """Seconds until the relay publishes a new outbox row; None if its commit publishes it.

    `publishes`: the process that commits the row publishes it too.
    """
    if broker.is_ledger:
        return None
    return HANDOFF if publishes else 0.0


async def publish(engine: AsyncEngine, broker: Broker, refs: Sequence[JobRef], by: str) -> int:
    """Publish, then mark what was confirmed. Returns how many were.

    A crash in between publishes twice. That is harmless, because a reference is claimed once.
    """
    confirmed = await broker.publish(refs)
    if confirmed:
        async with transaction(engine) as conn:
            await outbox.mark_published(conn, confirmed)
            await broker.announce(conn, (ref.queue for ref in confirmed))
            await conn.commit()
        REFS_PUBLISHED.labels(by).inc(len(confirmed))
    return len(confirmed)


class Publisher:
    """Publishes in the background what this process has just committed, while submissions leave it time.

    Submissions come first: references for which `reserve` has no room are left to the relay, another process.
    """

    ROOM = 32
    """References being published at once."""

    LIGHT = 4
    """References of one transaction. More means that submissions come faster than commits, and publishing a reference
    costs as much CPU as accepting a job: a busy process would halve its rate by publishing, too."""

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker
        self._room = self.ROOM
        self._tasks: set[asyncio.Task[None]] = set()

    def reserve(self, wanted: int) -> int:
        """Reserve room for all `wanted` references or none. The caller calls `offer` or `release` next."""
        if self._broker.is_ledger or wanted > min(self.LIGHT, self._room):
            return 0
        self._room -= wanted
        return wanted

    def release(self, count: int) -> None:
        self._room += count

    def offer(self, refs: Sequence[JobRef]) -> None:
        """Publish these in the background, in reserved room."""
        if refs:
            task = asyncio.create_task(self._publish(refs))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Wait until all is published. Each publish has its own deadline."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _publish(self, refs: Sequence[JobRef]) -> None:
        try:
            await publish(self._engine, self._broker, refs, "submitter")
        except LedgerUnavailable as error:
            logs.outage("mark_published_failed", error)
        finally:
            self.release(len(refs))
