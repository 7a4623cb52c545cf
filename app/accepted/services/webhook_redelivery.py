"""Sending a webhook again because somebody asked for it: the same `webhook-id`, the same body.

A delivery that has not succeeded is its own redelivery: it is retried, or comes sooner. One that has succeeded stays
what it is, as every job does; what the receiver lost is sent by a new delivery, which names the first.
"""

from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.job import RETRYABLE, WEBHOOK_TYPE, Job, Status
from accepted.errors import Conflict
from accepted.services import dead_letters, webhooks
from accepted.storage import webhooks as ledger
from accepted.storage.db.engine import transaction
from accepted.storage.jobs.reading import jobs_by_id

WAITING = frozenset({Status.SCHEDULED, Status.RETRYING})
"""Until a moment, which may as well be now."""


async def redeliver(engine: AsyncEngine, broker: Broker, delivery: Job) -> Job:
    """Have `delivery`, as it was read, sent again. Returns the job that does it: itself, or one made for it.

    Its URL is tried even if it was given up. Raises `Conflict` when it is being sent already, or has changed.
    """
    if delivery.status in RETRYABLE:
        again = await dead_letters.retry(engine, delivery)
    elif delivery.status in WAITING:
        again = await _sooner(engine, delivery)
    elif delivery.status == Status.SUCCEEDED:
        again = await _once_more(engine, broker, delivery)
    else:
        raise Conflict(f"the delivery is {delivery.status}: it is about to be sent, or being sent")
    if again is None:
        raise Conflict("the delivery has changed meanwhile")
    return again


async def _sooner(engine: AsyncEngine, delivery: Job) -> Job | None:
    """Its next attempt is now. None when it does not wait any more."""
    async with transaction(engine) as conn:
        if not await ledger.bring_forward(conn, delivery.id, delivery.attempt):
            return None
        await ledger.forget_failures(conn, delivery.tenant, _payload(delivery)["url"])
        again = await jobs_by_id(conn, [delivery.id])
        await conn.commit()
    return again[delivery.id]


async def _once_more(engine: AsyncEngine, broker: Broker, delivery: Job) -> Job | None:
    """A new delivery with the payload of the old. None when that was pruned meanwhile.

    Raises `Conflict` while one is under way: of many who ask at once, one is heard.
    """
    payload = _payload(delivery)
    original = UUID(payload.get("redelivery_of") or str(delivery.id))
    async with transaction(engine) as conn:
        if not await ledger.lock(conn, delivery.id):
            return None
        about = payload.get("job_id") or payload["batch_id"]
        if other := await ledger.under_way(conn, delivery.tenant, about, original):
            raise Conflict(f"the delivery {other} sends it again already, and has not finished")
        await ledger.forget_failures(conn, delivery.tenant, payload["url"])
        new = webhooks.delivery(delivery.tenant, WEBHOOK_TYPE, payload | {"redelivery_of": original})
        await webhooks.write(conn, broker, [new])
        made = await jobs_by_id(conn, [new.id])
        await conn.commit()
    return made[new.id]


def _payload(delivery: Job) -> dict[str, Any]:
    payload: dict[str, Any] = msgspec.json.decode(delivery.payload)
    return payload
