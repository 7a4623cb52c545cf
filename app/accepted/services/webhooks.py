"""A webhook is a job: type `webhook.deliver`, written in the transaction that brings the end state it tells of.

So it has attempts, backoff, fencing and dead letters like every job, and is never forgotten. The body is made
once, here, and is the same on every try.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from accepted.broker.base import Broker
from accepted.domain.ids import new_id
from accepted.domain.job import WEBHOOK_QUEUE, WEBHOOK_TYPE, Job, NewJob, to_wire
from accepted.domain.retry import WEBHOOK_RETRY
from accepted.storage.db.statements import Connection
from accepted.storage.jobs import submission
from accepted.storage.jobs.reading import callbacks_of
from accepted.storage.jobs.submission import Entry

_RETRY = msgspec.json.encode(WEBHOOK_RETRY).decode()


async def record(conn: Connection, broker: Broker, ended: Sequence[UUID]) -> None:
    """Write the deliveries for these jobs, which ended in this transaction and want a webhook. The caller commits."""
    if ended:
        await write(conn, broker, [_webhook(job, url) for job, url in await callbacks_of(conn, ended)])


async def write(conn: Connection, broker: Broker, deliveries: Sequence[NewJob]) -> None:
    """Accept deliveries of our own making. The caller commits."""
    handoff = None if broker.handoff is None else 0.0
    await submission.insert(conn, [Entry(job, handoff=handoff) for job in deliveries], idempotency_ttl=0)
    await broker.announce(conn, [WEBHOOK_QUEUE])


def delivery(tenant: str, type_: str, payload: object) -> NewJob:
    """A job that tells somebody of something."""
    return NewJob(
        id=new_id(),
        tenant=tenant,
        type=type_,
        queue=WEBHOOK_QUEUE,
        payload=msgspec.json.encode(payload).decode(),
        max_attempts=WEBHOOK_RETRY.max_attempts,
        retry=_RETRY,
    )


def event(type_: str, at: datetime | None, data: object) -> str:
    """The body of a webhook, as JSON text."""
    return msgspec.json.encode({"type": type_, "timestamp": at, "data": data}).decode()


def _webhook(job: Job, url: str) -> NewJob:
    told = event(f"job.{job.status}", job.finished_at, to_wire(job))
    return delivery(job.tenant, WEBHOOK_TYPE, {"url": url, "job_id": job.id, "event": told})
