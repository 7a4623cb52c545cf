"""The relay: publishes outbox rows that are due and unpublished, also those whose submitter died."""

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.references import JobRef
from accepted.services.jobs.publishing import publish
from accepted.storage.db import notifications
from accepted.storage.db.statements import Direct
from accepted.storage.jobs import outbox

MOST = 500
"""References a round: one commit to take them, one round of confirms, one commit to mark them."""

HOLD = 10.0
"""Seconds for which taken rows are this relay's; twice the publish deadline. If it dies, they come due again."""

LONGEST_PAUSE = 0.2
"""Seconds. A row that becomes due without our knowing, a retry or a webhook or a delay of less than that, waits no
longer than this: well within the 250 ms that a delay may be late. Polls are most of what an idle scheduler costs."""

AWAY = 1.0
"""Seconds to leave a broker alone that is away. One that is there and refuses a queue has others to be served."""


class Relay:
    """Finds rows by their state, never by a cursor: a row that commits late has an early id all the same."""

    name = "relay"

    def __init__(self, engine: AsyncEngine, broker: Broker, polls: Direct) -> None:
        self._engine = engine
        self._polls = polls
        self._broker = broker
        self._next_due: float | None = None
        self._away = False

    async def run_once(self) -> int:
        refs = await self._take()
        done = await publish(self._engine, self._broker, refs, self.name) if refs else 0
        self._away = bool(refs) and not done and await self._broker.check() != "ok"
        return done

    def pause(self, done: int) -> float:
        if self._away:
            return AWAY
        if done:
            return 0.0
        return LONGEST_PAUSE if self._next_due is None else min(max(self._next_due, 0.001), LONGEST_PAUSE)

    async def _take(self) -> list[JobRef]:
        """What is due, ours for `HOLD`."""
        async with self._polls.statements() as conn:
            self._next_due = await outbox.next_due(conn)
        if self._next_due is None or self._next_due > 0:
            return []
        ledger = Direct(self._engine)
        try:
            async with ledger.transaction() as conn:
                refs, promoted = await outbox.take_due(conn, MOST, HOLD)
                await notifications.announce(conn, promoted)
                await conn.commit()
        finally:
            await ledger.close()
        return refs
