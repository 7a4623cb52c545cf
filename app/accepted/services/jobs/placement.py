"""The place of a job among the others when it is accepted: its unique key, its line, then its row.

All of it happens in the caller's transaction. Unique keys are taken before lines are locked, because a duplicate
gets no place.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec

from accepted.broker.base import Broker
from accepted.domain.job import Job, NewJob
from accepted.services.jobs.publishing import handoff
from accepted.storage import queue_tenants
from accepted.storage.db import notifications
from accepted.storage.db.statements import Connection
from accepted.storage.jobs import ordering, submission, uniqueness
from accepted.storage.jobs.ordering import Line
from accepted.storage.jobs.reading import jobs_by_id
from accepted.storage.jobs.submission import Entry
from accepted.storage.jobs.uniqueness import UniqueKey

MAX_BATCH = notifications.MAX_IDS
"""Jobs in one statement."""


async def insert(conn: Connection, broker: Broker, jobs: Sequence[NewJob]) -> None:
    """Insert jobs that come with what the transaction writes: children of a success, runs of a schedule.

    They have passed `JobChecks` and have no idempotency key. The relay publishes them. The caller commits.
    """
    jobs = await line_up(conn, jobs)
    for start in range(0, len(jobs), MAX_BATCH):
        batch = [Entry(job, handoff=handoff(broker, publishes=False)) for job in jobs[start : start + MAX_BATCH]]
        await submission.insert(conn, batch, idempotency_ttl=0)
    if jobs:
        await queue_tenants.announce(conn, queue_tenants.pairs_of(jobs))
        await broker.announce(conn, {job.queue for job in jobs})


async def take_unique_keys(conn: Connection, jobs: Sequence[NewJob]) -> tuple[list[NewJob], dict[UUID, UniqueKey]]:
    """`jobs` without those whose unique key another job has, and for each of these, by id, that key.

    Of several jobs with one key the first gets it. The keys are locked until the transaction ends.
    """
    first = {_unique_key(job): (job.id, job.unique) for job in reversed(jobs) if job.unique is not None}
    if not first:
        return list(jobs), {}
    taken = await uniqueness.take(conn, first)
    new = [job for job in jobs if job.unique is None or job.id in taken]
    return new, {job.id: _unique_key(job) for job in jobs if job.unique is not None and job.id not in taken}


async def holders(conn: Connection, duplicates: dict[UUID, UniqueKey]) -> dict[UUID, Job]:
    """For each job that was not inserted, the job that has its unique key, as it is now."""
    if not duplicates:
        return {}
    found = await uniqueness.holders(conn, set(duplicates.values()))
    jobs = await jobs_by_id(conn, list(found.values()))
    return {job_id: jobs[found[key]] for job_id, key in duplicates.items()}


async def line_up(conn: Connection, jobs: Sequence[NewJob]) -> list[NewJob]:
    """`jobs`, to be inserted in this transaction: each with an ordering key waits for the one before it in its line.

    Locks the lines until the transaction ends, so a caller that needs more locks takes them first, and all lines at
    once.
    """
    lines = {job.id: line for job in jobs if (line := line_of(job)) is not None}
    if not lines:
        return list(jobs)
    waits_for = await append(conn, lines)
    return [_placed(job, waits_for) if job.id in lines else job for job in jobs]


async def append(conn: Connection, lines: dict[UUID, Line]) -> dict[UUID, UUID]:
    """Put these jobs at the ends of their lines, in their order. Returns, by job, the job that it waits for, if any."""
    await ordering.lock(conn, {line: job_id for job_id, line in sorted(lines.items(), key=lambda item: item[1])})
    last = await ordering.busy(conn, set(lines.values()))
    edges = []
    for job_id, line in lines.items():
        if line in last:
            edges.append((last[line], job_id))
        last[line] = job_id
    await ordering.append(conn, edges, last)
    return {job_id: needs for needs, job_id in edges}


async def lock_lines(conn: Connection, lines: Collection[Line], batch_id: UUID) -> None:
    """Lock the lines of all members of a batch, whose members are appended in several statements, one after the other.

    A new line names the batch as its last job until its first member is there, which therefore waits for nothing.
    """
    if lines:
        await ordering.lock(conn, dict.fromkeys(lines, batch_id))


def line_of(job: NewJob) -> Line | None:
    """The line that the job belongs to; None for a job without an ordering key."""
    return None if job.ordering_key is None else Line(job.tenant, job.queue, job.ordering_key)


def _placed(job: NewJob, waits_for: dict[UUID, UUID]) -> NewJob:
    blockers = job.blockers + (job.id in waits_for)
    return msgspec.structs.replace(job, blockers=blockers, has_dependents=True)


def _unique_key(job: NewJob) -> UniqueKey:
    assert job.unique is not None
    return UniqueKey(job.tenant, job.unique.key)
