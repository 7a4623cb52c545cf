"""Webhooks: a delivery is a job of type `webhook.deliver`, written in the transaction that ends the job it is about.

So a delivery has attempts, backoff, fencing and dead letters like every job, and is never forgotten. Its body is made
once, here, and is the same on every attempt.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.ids import new_id
from accepted.domain.job import RETRYABLE, WEBHOOK_QUEUE, WEBHOOK_TYPE, Job, NewJob, Status, to_wire
from accepted.domain.network import targets
from accepted.domain.network.urls import UrlRefused
from accepted.domain.retry import WEBHOOK_RETRY
from accepted.errors import Conflict
from accepted.services import manual_retry
from accepted.services.jobs.publishing import handoff
from accepted.storage import queue_tenants
from accepted.storage import webhooks as ledger
from accepted.storage.db.engine import transaction
from accepted.storage.db.statements import Connection
from accepted.storage.jobs import submission
from accepted.storage.jobs.reading import callbacks_of, jobs_by_id
from accepted.storage.jobs.submission import Entry

WAITING = frozenset({Status.SCHEDULED, Status.RETRYING})
"""A delivery that waits for its `run_at` can be sent at once."""

_RETRY = msgspec.json.encode(WEBHOOK_RETRY).decode()


async def record(conn: Connection, broker: Broker, finished: Sequence[UUID]) -> None:
    """Write the deliveries about these jobs, which have finished in this transaction. The caller commits."""
    if finished:
        await write(conn, broker, [_delivery_about(*one) for one in await callbacks_of(conn, finished)])


async def write(conn: Connection, broker: Broker, deliveries: Sequence[NewJob]) -> None:
    """Insert deliveries, which wait for the limiter to admit them. The caller commits."""
    if not deliveries:
        return
    await submission.insert(
        conn, [Entry(job, handoff=handoff(broker, publishes=False)) for job in deliveries], idempotency_ttl=0
    )
    await queue_tenants.announce(conn, queue_tenants.pairs_of(deliveries))


def delivery(tenant: str, type_: str, payload: Mapping[str, object]) -> NewJob:
    """A job of `type_` on the queue of webhooks, retried as webhooks are."""
    return NewJob(
        id=new_id(),
        tenant=tenant,
        type=type_,
        queue=WEBHOOK_QUEUE,
        payload=msgspec.json.encode(payload).decode(),
        max_attempts=WEBHOOK_RETRY.max_attempts,
        retry=_RETRY,
        concurrency_key=receiver_key(tenant, payload.get("url")),
    )


def receiver_key(tenant: str, url: object) -> str:
    """The concurrency key of the deliveries to one receiver, which take turns with those to others (docs/waiting.md).

    A receiver is a host, for one tenant. `url` is None for alerts, which all go to the same. Never raises: what is no
    URL is a receiver of its own, and its deliveries fail.
    """
    if url is None:
        return tenant
    try:
        return f"{tenant} {targets.key_of(str(url))}"
    except UrlRefused:
        return f"{tenant} {str(url)[:200]}"


def event(type_: str, at: datetime | None, data: object) -> str:
    """The body of a webhook, as JSON text."""
    return msgspec.json.encode({"type": type_, "timestamp": at, "data": data}).decode()


async def redeliver(engine: AsyncEngine, broker: Broker, sent: Job) -> Job:
    """Send `sent`, as it was read, again: with the same `webhook-id` and the same body.

    A delivery that has not succeeded runs again: it is retried, or its next attempt is made due. One that has succeeded
    stays as it is, and a new delivery, which names it, is written. Returns the job that is sent.

    The URL is tried even if it was given up. Raises `Conflict` when the delivery is being sent or has changed.
    """
    if sent.status in RETRYABLE:
        again = await manual_retry.retry(engine, sent)
    elif sent.status in WAITING:
        again = await _send_now(engine, sent)
    elif sent.status == Status.SUCCEEDED:
        again = await _send_another(engine, broker, sent)
    else:
        raise Conflict(f"the delivery is {sent.status}: it is about to be sent, or being sent")
    if again is None:
        raise Conflict("the delivery has changed meanwhile")
    return again


async def _send_now(engine: AsyncEngine, sent: Job) -> Job | None:
    """Make its next attempt due. None when the delivery no longer waits."""
    async with transaction(engine) as conn:
        if not await ledger.bring_forward(conn, sent.id, sent.attempt):
            return None
        await ledger.forget_failures(conn, sent.tenant, _payload(sent)["url"])
        again = await jobs_by_id(conn, [sent.id])
        await conn.commit()
    return again[sent.id]


async def _send_another(engine: AsyncEngine, broker: Broker, sent: Job) -> Job | None:
    """Write a new delivery with the same payload. None when `sent` has been pruned meanwhile.

    Raises `Conflict` while another redelivery is under way, so that concurrent requests make one.
    """
    payload = _payload(sent)
    original = UUID(payload.get("redelivery_of") or str(sent.id))
    async with transaction(engine) as conn:
        if not await ledger.lock(conn, sent.id):
            return None
        about = payload.get("job_id") or payload["batch_id"]
        if other := await ledger.under_way(conn, sent.tenant, about, original):
            raise Conflict(f"the delivery {other} sends it again already, and has not finished")
        await ledger.forget_failures(conn, sent.tenant, payload["url"])
        new = delivery(sent.tenant, WEBHOOK_TYPE, payload | {"redelivery_of": original})
        await write(conn, broker, [new])
        made = await jobs_by_id(conn, [new.id])
        await conn.commit()
    return made[new.id]


def _delivery_about(job: Job, url: str, traceparent: str | None) -> NewJob:
    """A delivery in the trace of the job."""
    body = event(f"job.{job.status}", job.finished_at, to_wire(job))
    made = delivery(job.tenant, WEBHOOK_TYPE, {"url": url, "job_id": job.id, "event": body})
    return msgspec.structs.replace(made, traceparent=traceparent)


def _payload(sent: Job) -> dict[str, Any]:
    payload: dict[str, Any] = msgspec.json.decode(sent.payload)
    return payload
