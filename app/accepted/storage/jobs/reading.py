"""Reading jobs and their attempts, as the API shows them."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from operator import itemgetter
from uuid import UUID

import msgspec
from sqlalchemy.dialects.postgresql import JSON

from accepted.domain.job import Job
from accepted.storage.db.job_tables import jobs
from accepted.storage.db.statements import Connection, Row, Statement, struct

JSON_COLUMNS = frozenset(column.name for column in jobs.columns if isinstance(column.type, JSON))
"""Columns of `jobs` that hold JSON: as fields of a job they are text."""


def job_columns(fields: Iterable[str], alias: str = "jobs") -> str:
    """The select list for these fields of a job, which are columns of the same names."""
    return ", ".join(
        f"CAST({alias}.{field} AS text) AS {field}" if field in JSON_COLUMNS else f"{alias}.{field}" for field in fields
    )


def listed_columns(leave_out: Collection[str]) -> str:
    """The select list for a job in a list, without reading these of the fields `LARGE`: `as_job` takes it."""
    return ", ".join(_NOT_READ[name] if name in leave_out else job_columns([name]) for name in Job.__struct_fields__)


_FIELDS = Job.__struct_fields__
_COLUMNS = job_columns(_FIELDS)
_job_values = itemgetter(*_FIELDS)

_BY_ID = Statement(f"SELECT {_COLUMNS} FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")
_CALLBACKS = Statement(f"""
SELECT {_COLUMNS}, callback_url, traceparent FROM jobs
WHERE id = ANY(CAST(:ids AS uuid[])) AND callback_url IS NOT NULL ORDER BY id
""")
_ATTEMPT_COLUMNS = """
    job_id, attempt, CAST(worker_id AS text) AS worker, started_at, finished_at, outcome,
    CAST(error AS text) AS error, traceback, (SELECT w.name FROM workers w WHERE w.id = worker_id) AS worker_name
"""
_ATTEMPTS = Statement(f"""
SELECT {_ATTEMPT_COLUMNS} FROM attempts WHERE job_id = ANY(CAST(:ids AS uuid[])) ORDER BY job_id, attempt
""")
_ATTEMPTS_AFTER = Statement(f"""
SELECT {_ATTEMPT_COLUMNS} FROM attempts WHERE job_id = :id AND attempt > :after ORDER BY attempt LIMIT :limit
""")

_NOT_READ = {"payload": "'{}' AS payload", "result": "NULL AS result"}
"""What stands for a field of `accepted.domain.job.LARGE` that is not read."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a job. `error` is JSON text; `finished_at` is None while it runs.

    `worker_name` is None once the worker is gone.
    """

    job_id: UUID
    attempt: int
    worker: str
    worker_name: str | None
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    error: str | None
    traceback: str | None


def as_job(row: Row) -> Job:
    """A row with the columns of a job."""
    return Job(**dict(zip(_FIELDS, _job_values(row), strict=True)))


async def jobs_by_id(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, Job]:
    """The jobs with these ids, of any tenant: the caller compares `tenant`."""
    return {row["id"]: as_job(row) for row in await _BY_ID.rows(conn, ids=list(ids))}


async def callbacks_of(conn: Connection, ids: Sequence[UUID]) -> list[tuple[Job, str, str | None]]:
    """Those of these jobs that have a callback URL, each with it and with its traceparent, in id order."""
    rows = await _CALLBACKS.rows(conn, ids=list(ids))
    return [(as_job(row), row["callback_url"], row["traceparent"]) for row in rows]


async def attempts_of(conn: Connection, ids: Sequence[UUID]) -> list[Attempt]:
    """Every attempt at these jobs, by job and number."""
    return [struct(Attempt, row) for row in await _ATTEMPTS.rows(conn, ids=list(ids))]


async def attempts_after(conn: Connection, job_id: UUID, after: int, limit: int) -> list[Attempt]:
    """Up to `limit` attempts at this job behind number `after`, by number."""
    return [struct(Attempt, row) for row in await _ATTEMPTS_AFTER.rows(conn, id=job_id, after=after, limit=limit)]
