"""The jobs that wait for a moment, in the order of these moments: `scheduled` and `retrying`, as the relay finds them.

A step reads the next rows of the index by which the relay finds what is due, of all tenants, and keeps what matches.
"""

from datetime import datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

import msgspec

from accepted.domain.job import LARGE, Job, Status
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.jobs.job_filter import JobFilter, conditions, values_of
from accepted.storage.jobs.reading import as_job, listed_columns

STATUSES = (Status.SCHEDULED, Status.RETRYING)
"""Statuses in which a job waits for a moment."""


class Due(NamedTuple):
    """A place in the order: a moment, and the job that waits for it."""

    at: datetime
    job_id: UUID


class UpcomingStep(msgspec.Struct, frozen=True):
    """The jobs that match, each with its place, and the last place that was looked at; None: no others are left."""

    found: list[tuple[Due, Job]]
    reached: Due | None


async def step(
    conn: Connection, tenant: str, wanted: JobFilter, after: Due | None, size: int, limit: int, include: frozenset[str]
) -> UpcomingStep:
    """Look at `size` places behind `after`; None: from the first. Finds up to `limit` jobs, with these of `LARGE`.

    If there are as many as the limit, the step has not told of all of them.
    """
    given = wanted.given()
    statement = _statement(frozenset(given), frozenset(LARGE) - include, after is None)
    at, job_id = after or (None, None)
    rows = await statement.rows(
        conn, **values_of(tenant, given), after_at=at, after_id=job_id, size=size, limit=limit
    )  # fmt: skip
    found = [(Due(row["due_at"], row["id"]), as_job(row)) for row in rows if row["id"] is not None]
    last = rows[0]
    return UpcomingStep(found, Due(last["last_at"], last["last_id"]) if last["looked_at"] == size else None)


@lru_cache(maxsize=1024)
def _statement(given: frozenset[str], leave_out: frozenset[str], from_first: bool) -> Statement:
    behind = "" if from_first else "AND (due_at, job_id) > (CAST(:after_at AS timestamptz), CAST(:after_id AS uuid))"
    return Statement(f"""
WITH looked_at AS MATERIALIZED (
    SELECT job_id, due_at, tenant FROM outbox WHERE NOT published AND NOT on_hold {behind}
    ORDER BY due_at, job_id LIMIT :size
), found AS MATERIALIZED (
    SELECT l.due_at, w.* FROM looked_at l CROSS JOIN LATERAL (
        SELECT {listed_columns(leave_out)} FROM jobs WHERE id = l.job_id AND {conditions(given)} OFFSET 0
    ) AS w WHERE l.tenant = :tenant ORDER BY l.due_at, l.job_id LIMIT :limit
)
SELECT (SELECT count(*) FROM looked_at) AS looked_at, last.due_at AS last_at, last.job_id AS last_id, f.*
FROM (SELECT 1) AS one
LEFT JOIN (SELECT due_at, job_id FROM looked_at ORDER BY due_at DESC, job_id DESC LIMIT 1) AS last ON true
LEFT JOIN found f ON true ORDER BY f.due_at, f.id
""")
