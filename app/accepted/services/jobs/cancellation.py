"""Cancelling a job for a client. The job may change meanwhile, so it is read again until the cancellation fits it."""

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.job import Job
from accepted.errors import Conflict, LedgerUnavailable, ResourceNotFound
from accepted.services.jobs import completion
from accepted.storage.db import notifications
from accepted.storage.db.engine import reading, transaction
from accepted.storage.jobs import cancellation
from accepted.storage.jobs.reading import jobs_by_id

TRIES = 20
"""A job changes its status once or twice meanwhile. One that does so this often means that the ledger is broken."""


async def cancel(engine: AsyncEngine, broker: Broker, job: Job) -> Job:
    """Returns the job as it is then: `cancelled`, or still `running`, and its worker will be told.

    Raises `Conflict` for a job that has finished, `ResourceNotFound` for one that was pruned meanwhile, and
    `LedgerUnavailable`.
    """
    for _ in range(TRIES):
        if job.finished:
            raise Conflict(f"the job has finished: it is {job.status}")
        cancelled = await _try(engine, broker, job)
        async with reading(engine) as conn:
            found = await jobs_by_id(conn, [job.id])
        if job.id not in found:
            raise ResourceNotFound("no such job")
        job = found[job.id]
        if cancelled:
            return job
    raise LedgerUnavailable("the job kept changing")


async def _try(engine: AsyncEngine, broker: Broker, job: Job) -> bool:
    """End the job, with its webhook, or leave the request for its worker. False: the job has finished meanwhile."""
    async with transaction(engine) as conn:
        done = await cancellation.cancel(conn, job.id)
        if done is None:
            return False
        await completion.follow_up(conn, broker, [done])
        if done.finished:
            await notifications.announce(conn, [job.id])
        await conn.commit()
    return True
