"""Cancelling a batch: small ones within the request, what is left of large ones by a loop of the scheduler.

Each round is a transaction of its own: its members end with their webhooks and whatever follows from it, and no lock is
held for long. The note on the batch stays until a whole pass over the members has missed none.
"""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.errors import LedgerUnavailable
from accepted.services.jobs import completion
from accepted.storage import batch_ends
from accepted.storage.db import notifications
from accepted.storage.db.engine import transaction

MOST = 500
"""Members in a round: a few dozen milliseconds for which they are locked."""

IN_REQUEST = 1.0
"""Seconds for which a request goes on with it: some thousands of members."""

FIRST = UUID(int=0)

log = structlog.get_logger(__name__)


async def cancel(engine: AsyncEngine, broker: Broker, tenant: str, batch_id: UUID) -> bool:
    """Note it, and begin. False: the batch has finished, or is not there. Raises `LedgerUnavailable`."""
    async with transaction(engine) as conn:
        if not await batch_ends.request_cancel(conn, tenant, batch_id):
            return False
        await conn.commit()
    try:
        await _begin(Canceller(engine, broker), batch_id)
    except LedgerUnavailable as error:  # the note is committed: a scheduler goes on
        log.warning("cancel_goes_on_elsewhere", batch_id=str(batch_id), error=str(error))
    return True


async def _begin(canceller: "Canceller", batch_id: UUID) -> None:
    until = asyncio.get_running_loop().time() + IN_REQUEST
    await canceller.some(batch_id)
    while canceller.is_under_way(batch_id) and asyncio.get_running_loop().time() < until:
        await canceller.some(batch_id)


class Canceller:
    """Goes through the members of batches round by round, and begins a pass anew when the last one missed some."""

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker
        self._passes: dict[UUID, tuple[UUID, int]] = {}

    def is_under_way(self, batch_id: UUID) -> bool:
        """Whether there are members that this pass has not come to."""
        return batch_id in self._passes

    async def round(self, wanted: Sequence[UUID]) -> int:
        """A round of each batch that is to be cancelled. Returns how many members ended by it."""
        self._passes = {batch_id: state for batch_id, state in self._passes.items() if batch_id in wanted}
        return sum([await self.some(batch_id) for batch_id in wanted])

    async def some(self, batch_id: UUID) -> int:
        """One round of one batch. Returns how many members ended by it."""
        after, missed = self._passes.pop(batch_id, (FIRST, 0))
        async with transaction(self._engine) as conn:
            done = await batch_ends.cancel_some(conn, batch_id, after, MOST)
            missed += done.missed
            await completion.follow_up(conn, self._broker, done.ended)
            await notifications.announce(conn, [one.job_id for one in done.ended])
            if done.next is None and not missed:
                await batch_ends.cancel_carried_out(conn, batch_id)
            await conn.commit()
        if done.next is not None:
            self._passes[batch_id] = (done.next, missed)
        return len(done.ended)
