"""`unique`: of the jobs that come with one key the first is accepted, and while it is there the others get that one."""

from collections.abc import Sequence
from uuid import UUID

from accepted.domain.job import Job, NewJob
from accepted.storage.db.statements import Connection
from accepted.storage.jobs import uniqueness
from accepted.storage.jobs.reading import jobs_by_id
from accepted.storage.jobs.uniqueness import Place


async def first_of_each(conn: Connection, jobs: Sequence[NewJob]) -> tuple[list[NewJob], dict[UUID, Place]]:
    """`jobs` that are to be inserted in this transaction; and those that are not, with the key that another has."""
    first = {_place(job): (job.id, job.unique) for job in reversed(jobs) if job.unique is not None}
    if not first:
        return list(jobs), {}
    taken = await uniqueness.take(conn, first)
    new = [job for job in jobs if job.unique is None or job.id in taken]
    return new, {job.id: _place(job) for job in jobs if job.unique is not None and job.id not in taken}


async def those_there(conn: Connection, doubles: dict[UUID, Place]) -> dict[UUID, Job]:
    """For each job that was not inserted the one that has its key, as it is now."""
    if not doubles:
        return {}
    holders = await uniqueness.holders(conn, set(doubles.values()))
    jobs = await jobs_by_id(conn, list(holders.values()))
    return {job_id: jobs[holders[place]] for job_id, place in doubles.items()}


def _place(job: NewJob) -> Place:
    assert job.unique is not None
    return Place(job.tenant, job.unique.key)
