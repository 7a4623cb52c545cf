"""The end of a batch: the moves of its members are added up until all have ended, or a client cancels it.

A batch that has finished is recorded, and its webhook written, in one transaction, once. A cancellation goes through
the members in transactions of `MAX_CANCELLED`, each with the webhooks and whatever else follows from the members' ends,
so no lock is held for long. A request cancels for a second; the scheduler goes on with what is left. The request stays
in the batch's row until a whole pass over the members has missed none.
"""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted import logs
from accepted.broker.base import Broker
from accepted.containment import RowErrors
from accepted.domain.batch import FINISHED_EVENT, Batch, to_wire
from accepted.domain.ids import BEFORE_ALL
from accepted.domain.job import FINISHED, WEBHOOK_TYPE, NewJob
from accepted.domain.monitoring.audit import Action
from accepted.errors import LedgerUnavailable
from accepted.services import webhooks
from accepted.services.jobs import completion
from accepted.services.monitoring import audit
from accepted.storage import batch_ends, batches
from accepted.storage.db import notifications
from accepted.storage.db.engine import transaction

MAX_ADDED = 5000
"""Moves added up in one transaction, which takes some 30 ms."""

MAX_CANCELLED = 500
"""Members cancelled in one transaction, which locks them for some tens of milliseconds."""

IN_REQUEST = 1.0
"""Seconds for which a request cancels: some thousands of members."""


async def add_up(engine: AsyncEngine, broker: Broker) -> int:
    """Add moves of members to their batches, and finish complete ones. Returns how many batches changed."""
    async with transaction(engine) as conn:
        added = await batch_ends.add_up(conn, MAX_ADDED)
        await _finish(conn, broker, added.complete)
        await conn.commit()
    return added.batches


async def cancel(engine: AsyncEngine, broker: Broker, tenant: str, batch_id: UUID) -> bool:
    """Record the request, and begin to cancel. False: the batch has finished, or does not exist.

    Raises `LedgerUnavailable`.
    """
    async with transaction(engine) as conn:
        if not await batch_ends.request_cancel(conn, tenant, batch_id):
            return False
        await audit.record(conn, Action.BATCH_CANCELLED, tenant, str(batch_id))
        await conn.commit()
    try:
        await _begin(BatchCanceller(engine, broker), batch_id)
    except LedgerUnavailable as error:  # the request is committed: a scheduler goes on
        logs.outage("batch_cancel_left_to_scheduler", error, batch_id=str(batch_id))
    return True


class BatchCanceller:
    """Cancels the members of batches, some at a time, and begins another pass when the last one missed some."""

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker
        self._passes: dict[UUID, tuple[UUID, int]] = {}
        self._errors = RowErrors("batches")

    def is_under_way(self, batch_id: UUID) -> bool:
        """Whether this pass has members left."""
        return batch_id in self._passes

    async def cancel_some_of_each(self, wanted: Sequence[UUID]) -> int:
        """Cancel some members of each of these batches, which are to be cancelled. Returns how many members ended."""
        self._passes = {batch_id: state for batch_id, state in self._passes.items() if batch_id in wanted}
        ended = 0
        for batch_id in wanted:
            with self._errors.contained(str(batch_id)):
                ended += await self.cancel_some(batch_id)
        return ended

    async def cancel_some(self, batch_id: UUID) -> int:
        """Cancel the next members of one batch. Returns how many members ended."""
        after, missed = self._passes.pop(batch_id, (BEFORE_ALL, 0))
        async with transaction(self._engine) as conn:
            done = await batch_ends.cancel_some(conn, batch_id, after, MAX_CANCELLED)
            missed += done.missed
            await completion.follow_up(conn, self._broker, done.ended)
            await notifications.announce(conn, [one.job_id for one in done.ended])
            if done.next is None and not missed:
                await batch_ends.cancel_carried_out(conn, batch_id)
            await conn.commit()
        if done.next is not None:
            self._passes[batch_id] = (done.next, missed)
        return len(done.ended)


async def _begin(canceller: BatchCanceller, batch_id: UUID) -> None:
    until = asyncio.get_running_loop().time() + IN_REQUEST
    await canceller.cancel_some(batch_id)
    while canceller.is_under_way(batch_id) and asyncio.get_running_loop().time() < until:
        await canceller.cancel_some(batch_id)


async def _finish(conn: AsyncConnection, broker: Broker, complete: Sequence[UUID]) -> None:
    """Finish those of these batches, whose rows are locked, that are complete by the moves that are left, too.

    A retry of a member comes before, and its move is seen, or after: it waits for the row, and opens the batch again.
    """
    deliveries = []
    for batch_id in complete:
        batch = await batches.find(conn, batch_id)
        if batch is None or not batch.counts.keys() <= FINISHED:
            continue
        done = await batch_ends.finish(conn, batch_id)
        if done is not None and done[1] is not None:
            deliveries.append(_webhook(msgspec.structs.replace(batch, finished_at=done[0]), done[1]))
    if deliveries:
        await webhooks.write(conn, broker, deliveries)


def _webhook(batch: Batch, url: str) -> NewJob:
    event = webhooks.event(FINISHED_EVENT, batch.finished_at, to_wire(batch))
    return webhooks.delivery(batch.tenant, WEBHOOK_TYPE, {"url": url, "batch_id": batch.id, "event": event})
