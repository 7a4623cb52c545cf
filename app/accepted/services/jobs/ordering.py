"""Where a job with an `ordering_key` stands: at the end of the line of its tenant, queue and key, as it is accepted."""

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec

from accepted.domain.job import NewJob
from accepted.storage.db.statements import Connection
from accepted.storage.jobs import ordering
from accepted.storage.jobs.ordering import Line


async def line_up(conn: Connection, jobs: Sequence[NewJob]) -> list[NewJob]:
    """`jobs` in their order, to be inserted in this transaction: those with a key wait each for the one before.

    Holds the lines until the transaction ends; so they are asked for last, and at once, by whoever needs more locks.
    """
    lines = {job.id: line for job in jobs if (line := line_of(job)) is not None}
    if not lines:
        return list(jobs)
    waits_for = await queue_up(conn, lines)
    return [_placed(job, waits_for) if job.id in lines else job for job in jobs]


async def queue_up(conn: Connection, lines: dict[UUID, Line]) -> dict[UUID, UUID]:
    """Put these jobs at the ends of their lines, in their order. Returns for whom each waits, if for anybody."""
    await ordering.lock(conn, {line: job_id for job_id, line in sorted(lines.items(), key=lambda item: item[1])})
    last = await ordering.busy(conn, set(lines.values()))
    edges = []
    for job_id, line in lines.items():
        if line in last:
            edges.append((last[line], job_id))
        last[line] = job_id
    await ordering.append(conn, edges, last)
    return {job_id: needs for needs, job_id in edges}


async def hold(conn: Connection, lines: Collection[Line], batch_id: UUID) -> None:
    """Hold the lines of all members of a batch, which are lined up some at a time: nobody comes between them.

    A line that is new belongs to the batch until its first member is there, which therefore waits for nobody.
    """
    if lines:
        await ordering.lock(conn, dict.fromkeys(lines, batch_id))


def line_of(job: NewJob) -> Line | None:
    return None if job.ordering_key is None else Line(job.tenant, job.queue, job.ordering_key)


def _placed(job: NewJob, waits_for: dict[UUID, UUID]) -> NewJob:
    blockers = job.blockers + (job.id in waits_for)
    return msgspec.structs.replace(job, blockers=blockers, has_dependents=True)
