"""Reading jobs and their attempts, as the API shows them."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.dialects.postgresql import JSON

from accepted.domain.ids import floor_at
from accepted.domain.job import INTERNAL_TYPES, LARGE, Job
from accepted.storage.db.job_tables import jobs
from accepted.storage.db.statements import Connection, Row, Statement, struct

SKEW = 3600.0
"""Seconds by which the API's clock, which makes the ids, may be ahead of the ledger's, which dates the rows."""

JSON_COLUMNS = frozenset(column.name for column in jobs.columns if isinstance(column.type, JSON))
"""Columns of `jobs` that hold JSON: as fields of a job they are text."""


def job_columns(fields: Iterable[str], alias: str = "jobs") -> str:
    """The select list for these fields of a job, which are columns of the same names."""
    return ", ".join(
        f"CAST({alias}.{field} AS text) AS {field}" if field in JSON_COLUMNS else f"{alias}.{field}" for field in fields
    )


_FIELDS = Job.__struct_fields__
_COLUMNS = job_columns(_FIELDS)
_job_values = itemgetter(*_FIELDS)

_BY_ID = Statement(f"SELECT {_COLUMNS} FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")
_CALLBACKS = Statement(f"""
SELECT {_COLUMNS}, callback_url FROM jobs
WHERE id = ANY(CAST(:ids AS uuid[])) AND callback_url IS NOT NULL ORDER BY id
""")
_ATTEMPT_COLUMNS = """
    job_id, attempt, CAST(worker_id AS text) AS worker, started_at, finished_at, outcome,
    CAST(error AS text) AS error, traceback
"""
_ATTEMPTS = Statement(f"""
SELECT {_ATTEMPT_COLUMNS} FROM attempts WHERE job_id = ANY(CAST(:ids AS uuid[])) ORDER BY job_id, attempt
""")
_ATTEMPTS_AFTER = Statement(f"""
SELECT {_ATTEMPT_COLUMNS} FROM attempts WHERE job_id = :id AND attempt > :after ORDER BY attempt LIMIT :limit
""")

_NOT_READ = {"payload": "'{}' AS payload", "result": "NULL AS result"}
"""What stands for a field of `LARGE` that is not read."""

_CONDITIONS = {
    "status": "status = :status",
    "queue": "queue = :queue",
    "type": "type = :type",
    "tag": "tags @> ARRAY[CAST(:tag AS text)]",
    "batch_id": "batch_id = :batch_id",
    "created_after": "created_at > :created_after",
    "created_before": "created_at < :created_before AND id < :made_before",
    "before": "id < :before",
}


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs to list; None does not restrict. `before` is the id to go on from, exclusive."""

    status: str | None = None
    queue: str | None = None
    type: str | None = None
    tag: str | None = None
    batch_id: UUID | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    before: UUID | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a job. `error` is JSON text; `finished_at` is None while it runs."""

    job_id: UUID
    attempt: int
    worker: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    error: str | None
    traceback: str | None


async def jobs_by_id(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, Job]:
    """The jobs with these ids, of any tenant: the caller compares `tenant`."""
    return {row["id"]: _job(row) for row in await _BY_ID.rows(conn, ids=list(ids))}


async def list_jobs(
    conn: Connection, tenant: str, wanted: JobFilter, limit: int, include: Collection[str] = LARGE
) -> list[Job]:
    """Up to `limit` jobs of the tenant, newest first. Internal types are listed only if type or queue is given.

    Of `LARGE`, only the fields in `include` are read: without them, `payload` is an empty object and `result` None.
    """
    given = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not None}
    values: dict[str, Any] = given | {"tenant": tenant, "limit": limit}
    if wanted.type is None and wanted.queue is None:
        values["internal_types"] = list(INTERNAL_TYPES)
    if wanted.created_before is not None:
        values["made_before"] = floor_at(wanted.created_before, SKEW)
    statement = _listing(frozenset(given), frozenset(LARGE) - frozenset(include))
    return [_job(row) for row in await statement.rows(conn, **values)]


async def callbacks_of(conn: Connection, ids: Sequence[UUID]) -> list[tuple[Job, str]]:
    """Those of these jobs that have a callback URL, each with it, in id order."""
    return [(_job(row), row["callback_url"]) for row in await _CALLBACKS.rows(conn, ids=list(ids))]


async def attempts_of(conn: Connection, ids: Sequence[UUID]) -> list[Attempt]:
    """Every attempt at these jobs, by job and number."""
    return [struct(Attempt, row) for row in await _ATTEMPTS.rows(conn, ids=list(ids))]


async def attempts_after(conn: Connection, job_id: UUID, after: int, limit: int) -> list[Attempt]:
    """Up to `limit` attempts at this job behind number `after`, by number."""
    return [struct(Attempt, row) for row in await _ATTEMPTS_AFTER.rows(conn, id=job_id, after=after, limit=limit)]


@lru_cache(maxsize=256)
def _listing(given: frozenset[str], leave_out: frozenset[str]) -> Statement:
    """A statement for each combination of conditions, so that each has a plan of its own."""
    columns = ", ".join(_NOT_READ[name] if name in leave_out else job_columns([name]) for name in Job.__struct_fields__)
    conditions = ["tenant = :tenant", *(_CONDITIONS[name] for name in sorted(given))]
    if not given & {"type", "queue"}:
        conditions.append("type <> ALL(CAST(:internal_types AS text[]))")
    return Statement(f"SELECT {columns} FROM jobs WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT :limit")


def _job(row: Row) -> Job:
    return Job(**dict(zip(_FIELDS, _job_values(row), strict=True)))
