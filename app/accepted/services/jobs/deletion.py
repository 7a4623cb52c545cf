"""Deleting jobs for a client: what they hold goes, with the webhooks that hold it too; id and times stay.

A waiting job is cancelled by it, and everything follows from that end as from any other: its dependents, its batch, its
webhook, which has no payload then. A running job cannot be deleted, nor one about which a webhook is being sent: the
process that has it would write again.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.job import Job, Status
from accepted.domain.monitoring.audit import Action
from accepted.errors import Conflict, Gone, LedgerUnavailable, ResourceNotFound
from accepted.services.jobs import completion
from accepted.services.monitoring import audit
from accepted.services.monitoring.audit import Record
from accepted.storage.db import notifications
from accepted.storage.db.engine import reading, transaction
from accepted.storage.db.statements import Connection
from accepted.storage.jobs import cancellation, deletion
from accepted.storage.jobs.reading import jobs_by_id

MAX_TRIES = 20
"""A job that is just changing its state is read again and deleted as it is then."""

BETWEEN_TRIES = 0.05
"""Seconds."""


async def delete(engine: AsyncEngine, broker: Broker, job: Job) -> None:
    """Delete a job, as it was read.

    Raises `Conflict` while it runs or a webhook about it is being sent, `Gone` if it was deleted meanwhile,
    `ResourceNotFound` if it was pruned, and `LedgerUnavailable`.
    """
    for _ in range(MAX_TRIES):
        if job.deleted_at is not None:
            raise Gone("this job was deleted")
        if job.status == Status.RUNNING:
            raise Conflict("the job is running: cancel it first")
        if await delete_many(engine, broker, [job.id], partial(_record, job)):
            return
        job = await _again(engine, job.id)
        await asyncio.sleep(BETWEEN_TRIES)
    raise LedgerUnavailable("the job kept changing")


async def delete_many(engine: AsyncEngine, broker: Broker, ids: Sequence[UUID], record: Record) -> set[UUID]:
    """Delete those of these jobs that can be, in one transaction, and return them."""
    async with transaction(engine) as conn:
        deleted = await _delete(conn, broker, ids)
        await record(conn, len(deleted))
        await conn.commit()
    return deleted


async def _delete(conn: AsyncConnection, broker: Broker, ids: Sequence[UUID]) -> set[UUID]:
    about = await deletion.deliveries(conn, ids)
    busy = {one.about for one in about if one.being_sent}
    theirs = {one.id: one.about for one in about if one.about not in busy}
    free = [job_id for job_id in ids if job_id not in busy]
    ended = await cancellation.cancel_waiting(conn, [*free, *theirs])
    erased = await deletion.erase(conn, list(theirs))
    left = {job_id for delivery, job_id in theirs.items() if delivery not in erased}
    told = [one.job_id for one in ended]
    deleted = await deletion.erase(conn, [job_id for job_id in free if job_id not in left], told)
    await completion.follow_up(conn, broker, ended)
    await notifications.announce(conn, list(deleted))
    return deleted


async def _record(job: Job, conn: Connection, done: int) -> None:
    if done:
        await audit.record(conn, Action.JOB_DELETED, job.tenant, str(job.id))


async def _again(engine: AsyncEngine, job_id: UUID) -> Job:
    """The job as it is now. Raises `ResourceNotFound`, and `Conflict` while a webhook about it is being sent."""
    async with reading(engine) as conn:
        found = await jobs_by_id(conn, [job_id])
        about = await deletion.deliveries(conn, [job_id])
    if job_id not in found:
        raise ResourceNotFound("no such job")
    if any(one.being_sent for one in about):
        raise Conflict("a webhook about the job is being sent: delete the job when it has been")
    return found[job_id]
