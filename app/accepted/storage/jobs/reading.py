"""Reading jobs and attempts. Every question is asked for one tenant; another tenant's job is not there."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Select, Text, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PgUUID
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.ids import floor_at
from accepted.domain.job import INTERNAL_TYPES, Job
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.db.tables import attempts, jobs

_FIELDS = Job.__struct_fields__
_JSON = frozenset({"payload", "result", "error", "progress", "metadata"})
_SHOWN = [cast(jobs.c[name], Text) if name in _JSON else jobs.c[name] for name in _FIELDS]

_COLUMNS = ", ".join(f"CAST({name} AS text)" if name in _JSON else name for name in _FIELDS)
_BY_ID = Statement(f"SELECT {_COLUMNS} FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")
_CALLBACKS = Statement(
    f"SELECT {_COLUMNS}, callback_url FROM jobs "
    "WHERE id = ANY(CAST(:ids AS uuid[])) AND callback_url IS NOT NULL ORDER BY id"
)

SKEW = timedelta(hours=1)
"""How far the API's clock, which makes the ids, may be ahead of the ledger's, which dates the rows."""


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
    """One run of a job. `error` is JSON text; an attempt that is still going has no `finished_at`."""

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
    return {job.id: job for job in map(_job, await _BY_ID.rows(conn, ids=list(ids)))}


async def list_jobs(conn: AsyncConnection, tenant: str, wanted: JobFilter, limit: int) -> list[Job]:
    """Newest first. Jobs of internal types are listed only when their type or queue is asked for."""
    return [_job(row) for row in await conn.execute(_listing(tenant, wanted).limit(limit))]


async def callbacks_of(conn: Connection, ids: Sequence[UUID]) -> list[tuple[Job, str]]:
    """These jobs with their callback URL, in id order; those without one are left out."""
    return [(_job(tuple(row)[:-1]), row[-1]) for row in await _CALLBACKS.rows(conn, ids=list(ids))]


async def attempts_of(conn: AsyncConnection, ids: Sequence[UUID]) -> list[Attempt]:
    """Every attempt of these jobs, by job and number."""
    found = await conn.execute(
        select(
            attempts.c.job_id, attempts.c.attempt, cast(attempts.c.worker_id, Text), attempts.c.started_at,
            attempts.c.finished_at, attempts.c.outcome, cast(attempts.c.error, Text),
            attempts.c.traceback,
        )
        .where(_among(attempts.c.job_id, ids))
        .order_by(attempts.c.job_id, attempts.c.attempt)
    )  # fmt: skip
    return [Attempt(**dict(zip(Attempt.__struct_fields__, row, strict=True))) for row in found]


def _listing(tenant: str, wanted: JobFilter) -> Select[Any]:
    query = select(*_SHOWN).where(jobs.c.tenant == tenant).order_by(jobs.c.id.desc())
    if wanted.status is not None:
        query = query.where(jobs.c.status == wanted.status)
    if wanted.queue is not None:
        query = query.where(jobs.c.queue == wanted.queue)
    if wanted.type is not None:
        query = query.where(jobs.c.type == wanted.type)
    elif wanted.queue is None:
        query = query.where(jobs.c.type.not_in(INTERNAL_TYPES))
    if wanted.tag is not None:
        query = query.where(jobs.c.tags.contains([wanted.tag]))
    if wanted.batch_id is not None:
        query = query.where(jobs.c.batch_id == wanted.batch_id)
    if wanted.created_after is not None:
        query = query.where(jobs.c.created_at > wanted.created_after)
    if wanted.created_before is not None:
        query = query.where(
            jobs.c.created_at < wanted.created_before, jobs.c.id < floor_at(wanted.created_before + SKEW)
        )
    if wanted.before is not None:
        query = query.where(jobs.c.id < wanted.before)
    return query


def _among(column: Any, ids: Sequence[UUID]) -> Any:
    return column == func.any(cast(list(ids), ARRAY(PgUUID)))


def _job(row: Sequence[Any]) -> Job:
    return Job(**dict(zip(_FIELDS, row, strict=True)))
