"""Acts on all jobs that match a filter: found by a search, newest first, and done in transactions of `MAX_BATCH`.

An act is that on a single job, with its fences and with whatever follows from it. So a job that changes meanwhile is
left as it is, and two such requests at once do to each job what one would do. If the process dies, what was done stays
done, and the same request does the rest.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeAlias
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.job import FINISHED, WAITING, Job, Status
from accepted.domain.monitoring.audit import Action
from accepted.errors import Conflict, ResourceNotFound
from accepted.services import manual_retry
from accepted.services.jobs import completion, deletion
from accepted.services.jobs.searching import JobSearch, SearchPace
from accepted.services.monitoring.audit import RecordedPieces
from accepted.storage.db.engine import reading, transaction
from accepted.storage.jobs.job_filter import JobFilter

MAX_BATCH = 500
"""Jobs in one transaction, which locks them for some tens of milliseconds."""

MAX_COUNTED = 5000
"""Jobs that are read at once to be counted."""

MANY_SECONDS = 10.0
"""After this time no further transaction begins: clients and proxies wait for 30 s or so."""

CANCELLABLE = WAITING | {Status.RUNNING}
DELETABLE = WAITING | FINISHED

Act: TypeAlias = Callable[[Sequence[Job]], Awaitable[set[UUID]]]
"""Does something to jobs, as they were read, in one transaction. Returns to which, perhaps also to others."""


class Selection(msgspec.Struct, frozen=True):
    """The jobs of a tenant with ids below `before` that match, if their status is one of `allowed`."""

    tenant: str
    wanted: JobFilter
    allowed: Collection[str]
    before: UUID | None = None


class Tally(msgspec.Struct, frozen=True):
    """How many jobs matched, how many of them were acted upon, and the id below which there may be more, if any."""

    matched: int
    done: int
    stopped_at: UUID | None


async def count(engine: AsyncEngine, selection: Selection) -> Tally:
    """How many jobs match. Nothing is done to them."""

    async def nothing(_: Sequence[Job]) -> set[UUID]:
        return set()

    return await _each(engine, selection, nothing, MAX_COUNTED)


async def cancel(engine: AsyncEngine, broker: Broker, selection: Selection) -> Tally:
    """Cancel all that match: waiting jobs end, and the workers of running ones are told."""
    recorded = RecordedPieces(Action.JOBS_CANCELLED, selection.tenant, selection.wanted)

    async def cancel_some(jobs: Sequence[Job]) -> set[UUID]:
        cancelled = await completion.cancel_many(engine, broker, [job.id for job in jobs], recorded.record)
        for job in jobs:
            if job.id not in cancelled and await _cancelled_alone(engine, broker, job):
                cancelled.add(job.id)
                await _record_alone(engine, recorded)
        return cancelled

    return await _each(engine, selection, cancel_some, MAX_BATCH)


async def retry(engine: AsyncEngine, selection: Selection) -> Tally:
    """Run all that match again, now. A job that needs another one which has failed waits for that one's retry."""
    recorded = RecordedPieces(Action.JOBS_RETRIED, selection.tenant, selection.wanted)

    async def retry_some(jobs: Sequence[Job]) -> set[UUID]:
        return await manual_retry.retry_many(engine, selection.tenant, jobs, recorded.record)

    return await _each(engine, selection, retry_some, MAX_BATCH)


async def delete(engine: AsyncEngine, broker: Broker, selection: Selection) -> Tally:
    """Delete all that match; waiting jobs are cancelled. Those about which a webhook is being sent stay."""
    recorded = RecordedPieces(Action.JOBS_DELETED, selection.tenant, selection.wanted)

    async def delete_some(jobs: Sequence[Job]) -> set[UUID]:
        return await deletion.delete_many(engine, broker, [job.id for job in jobs], recorded.record)

    return await _each(engine, selection, delete_some, MAX_BATCH)


async def _cancelled_alone(engine: AsyncEngine, broker: Broker, job: Job) -> bool:
    """Cancel a job that was changing its state. False: it has ended."""
    try:
        await completion.cancel(engine, broker, job)
    except (Conflict, ResourceNotFound):
        return False
    return True


async def _record_alone(engine: AsyncEngine, recorded: RecordedPieces) -> None:
    """Right after the cancel, because that may take several transactions."""
    async with transaction(engine) as conn:
        await recorded.record(conn, 1)
        await conn.commit()


async def _each(engine: AsyncEngine, selection: Selection, act: Act, size: int) -> Tally:
    """Do `act` to the jobs of a selection, `size` at a time, for `MANY_SECONDS`."""
    statuses = [one for one in selection.wanted.statuses or selection.allowed if one in selection.allowed]
    if not statuses:
        return Tally(0, 0, None)
    wanted = msgspec.structs.replace(selection.wanted, statuses=statuses)
    pace = SearchPace(MANY_SECONDS, enough=float("inf"))
    matched: set[UUID] = set()
    done: set[UUID] = set()
    position = selection.before
    while True:
        async with reading(engine) as conn:
            search = JobSearch(conn, selection.tenant, wanted, include=(), pace=pace)
            found = await search.below(position, size)
        matched |= {job.id for job in found}
        done |= await act(found) if found else set()
        position = found[-1].id if len(found) == size else search.stopped_at
        if position is None or pace.over:
            break
    return Tally(len(matched), len(done & matched), position)
