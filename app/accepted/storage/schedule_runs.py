"""What became of each time of a schedule: one row for each (tenant, name, time), whoever fires it, and how often.

The unique row decides: only who has written it submits a job for that time, in the same transaction.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.schedule import Outcome
from accepted.storage.schedules import Key

RECENT = 100
"""Runs with a job among which one that has not finished is looked for."""

_RECORD = text("""
INSERT INTO schedule_runs AS r (tenant, name, scheduled_at, outcome, reason, job_id)
SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[]), CAST(:moments AS timestamptz[]),
                     CAST(:outcomes AS text[]), CAST(:reasons AS text[]), CAST(:jobs AS uuid[]))
ON CONFLICT (tenant, name, scheduled_at) DO UPDATE
    SET outcome = excluded.outcome, reason = excluded.reason, job_id = excluded.job_id, fired_at = now()
    WHERE r.job_id IS NULL AND r.fired_at > now()
RETURNING tenant, name, scheduled_at
""")

_LEAVE_OUT = text("""
UPDATE schedule_runs r SET outcome = :outcome, reason = :reason, job_id = NULL
FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[]), CAST(:moments AS timestamptz[]))
    AS one(tenant, name, scheduled_at)
WHERE (r.tenant, r.name, r.scheduled_at) = (one.tenant, one.name, one.scheduled_at)
""")

_TRIGGER = text("""
WITH schedule AS MATERIALIZED (
    SELECT tenant, name FROM schedules WHERE tenant = :tenant AND name = :name FOR KEY SHARE
)
INSERT INTO schedule_runs (tenant, name, scheduled_at, outcome, job_id)
SELECT tenant, name, clock_timestamp(), :outcome, CAST(:job_id AS uuid) FROM schedule
ON CONFLICT DO NOTHING
""")

_BUSY = text(f"""
SELECT s.tenant, s.name FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[])) AS s(tenant, name)
WHERE EXISTS (
    SELECT 1 FROM (
        SELECT r.job_id FROM schedule_runs r
        WHERE r.tenant = s.tenant AND r.name = s.name AND r.job_id IS NOT NULL
        ORDER BY r.scheduled_at DESC LIMIT {RECENT}
    ) AS recent JOIN jobs j ON j.id = recent.job_id WHERE j.finished_at IS NULL
)
""")

_PAGE = text("""
SELECT r.scheduled_at, r.fired_at, r.outcome, r.reason, r.job_id, j.status
FROM schedule_runs r LEFT JOIN jobs j ON j.id = r.job_id
WHERE r.tenant = :tenant AND r.name = :name
  AND (CAST(:before AS timestamptz) IS NULL OR r.scheduled_at < CAST(:before AS timestamptz))
ORDER BY r.scheduled_at DESC LIMIT :most
""")


class NewRun(msgspec.Struct, frozen=True):
    """One time of a schedule, and what is to become of it."""

    tenant: str
    name: str
    scheduled_at: datetime
    outcome: Outcome
    reason: str | None = None
    job_id: UUID | None = None


class Run(msgspec.Struct, frozen=True):
    """A run as it was recorded, and the status of its job now (None: there is none, or none any more)."""

    scheduled_at: datetime
    fired_at: datetime
    outcome: str
    reason: str | None
    job_id: UUID | None
    job_status: str | None


async def record(conn: AsyncConnection, runs: Sequence[NewRun]) -> list[NewRun]:
    """Write those whose time has no row yet, and return them. The caller commits.

    A time left out by a clock that was ahead (it says that it did so later than now) is written again.
    """
    values = _times(runs) | {
        "outcomes": [str(run.outcome) for run in runs],
        "reasons": [run.reason for run in runs],
        "jobs": [run.job_id for run in runs],
    }
    written = {tuple(row) for row in await conn.execute(_RECORD, values)}
    return [run for run in runs if (run.tenant, run.name, run.scheduled_at) in written]


async def leave_out(conn: AsyncConnection, runs: Sequence[NewRun], reason: str) -> None:
    """These, which this transaction has recorded, come to nothing after all."""
    if runs:
        await conn.execute(_LEAVE_OUT, _times(runs) | {"outcome": str(Outcome.SKIPPED), "reason": reason})


async def trigger(conn: AsyncConnection, tenant: str, name: str, job_id: UUID) -> bool:
    """Record a run that somebody asked for, at this moment. False: the schedule is not there. The caller commits."""
    values = {"tenant": tenant, "name": name, "job_id": job_id, "outcome": str(Outcome.TRIGGERED)}
    return bool((await conn.execute(_TRIGGER, values)).rowcount)


async def busy(conn: AsyncConnection, schedules: Sequence[Key]) -> set[Key]:
    """Those of which a job has not finished."""
    if not schedules:
        return set()
    values = {"tenants": [tenant for tenant, _ in schedules], "names": [name for _, name in schedules]}
    return {(row[0], row[1]) for row in await conn.execute(_BUSY, values)}


async def page(conn: AsyncConnection, tenant: str, name: str, before: datetime | None, most: int) -> list[Run]:
    """Up to `most` runs, the newest first; `before` is the time of the last one of the page before."""
    rows = await conn.execute(_PAGE, {"tenant": tenant, "name": name, "before": before, "most": most})
    return [Run(*row) for row in rows]


def _times(runs: Sequence[NewRun]) -> dict[str, list[Any]]:
    return {
        "tenants": [run.tenant for run in runs],
        "names": [run.name for run in runs],
        "moments": [run.scheduled_at for run in runs],
    }
