"""The end of a batch: found by adding up the ends of its members, recorded and told in one transaction, once."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.batch import FINISHED_EVENT, Batch, to_wire
from accepted.domain.job import WEBHOOK_TYPE, NewJob
from accepted.services import webhooks
from accepted.storage import batch_ends, batches
from accepted.storage.db.engine import transaction

MOST = 1000
"""Rows added up in one transaction, each of which tells of up to 200 ends."""


async def add_up(engine: AsyncEngine, broker: Broker) -> int:
    """Tell batches of what has ended since, and finish those of which everything has. Returns how many were told."""
    async with transaction(engine) as conn:
        added = await batch_ends.add_up(conn, MOST)
        await _finish(conn, broker, added.complete)
        await conn.commit()
    return added.batches


async def _finish(conn: AsyncConnection, broker: Broker, complete: Sequence[UUID]) -> None:
    """Their rows are locked: a member that is retried meanwhile waits for us, and opens its batch again."""
    deliveries = []
    for batch_id in complete:
        done = await batch_ends.finish(conn, batch_id, await batches.count(conn, batch_id))
        if done is not None and done[1] is not None:
            deliveries.append(_webhook(done[0], done[1]))
    if deliveries:
        await webhooks.write(conn, broker, deliveries)


def _webhook(batch: Batch, url: str) -> NewJob:
    event = webhooks.event(FINISHED_EVENT, batch.finished_at, to_wire(batch))
    return webhooks.delivery(batch.tenant, WEBHOOK_TYPE, {"url": url, "batch_id": batch.id, "event": event})
