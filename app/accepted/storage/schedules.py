"""Schedules, and which of them are due. Whoever moves `next_at` holds the lock of its row.

Every time is the ledger's: a scheduler whose own clock is wrong fires nothing early, late or twice.

What became of each time of a schedule: one row for each (tenant, name, time), whoever fires it, and how often.

The unique row decides: only who has written it submits a job for that time, in the same transaction.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.schedule import Outcome, Schedule
from accepted.storage.db.statements import Connection, Statement

Key = tuple[str, str]
"""The tenant and the name of a schedule."""

_COLUMNS = ", ".join(f"CAST(s.{name} AS text)" if name == "job" else f"s.{name}" for name in Schedule.__struct_fields__)
_ONE = f"SELECT {_COLUMNS} FROM schedules s WHERE s.tenant = :tenant AND s.name = :name"
_GET = text(_ONE)
_LOCK = text(f"{_ONE} FOR UPDATE")
_CLOCK = text("SELECT clock_timestamp()")

_PUT = text(f"""
INSERT INTO schedules AS s
    (tenant, name, cron, timezone, job, on_missed, overlap, spread_over, enabled, next_at)
VALUES (:tenant, :name, :cron, :timezone, CAST(:job AS json), :on_missed, :overlap, :spread_over, :enabled, :next_at)
ON CONFLICT (tenant, name) DO UPDATE SET
    cron = excluded.cron, timezone = excluded.timezone, job = excluded.job, on_missed = excluded.on_missed,
    overlap = excluded.overlap, spread_over = excluded.spread_over, enabled = excluded.enabled,
    next_at = excluded.next_at, updated_at = now()
RETURNING {_COLUMNS}, s.xmax = 0
""")

_DELETE = text("DELETE FROM schedules WHERE tenant = :tenant AND name = :name")

_PAGE = text(f"""
SELECT {_COLUMNS} FROM schedules s
WHERE s.tenant = :tenant AND (CAST(:after AS text) IS NULL OR s.name > CAST(:after AS text))
ORDER BY s.name LIMIT :limit
""")

_NEXT_DUE = Statement(
    "SELECT CAST(EXTRACT(epoch FROM next_at - now()) AS float8) FROM schedules "
    "WHERE enabled AND next_at IS NOT NULL ORDER BY next_at LIMIT 1"
)

_LOCK_DUE = text(f"""
SELECT {_COLUMNS}, now() FROM schedules s WHERE s.enabled AND s.next_at <= now()
ORDER BY s.next_at LIMIT :limit FOR UPDATE SKIP LOCKED
""")

_LOCK_AHEAD = text(f"""
SELECT {_COLUMNS}, now() FROM schedules s
WHERE s.enabled AND s.next_at > now() AND (s.updated_at > now() OR now() < (
    SELECT r.fired_at FROM schedule_runs r WHERE r.tenant = s.tenant AND r.name = s.name
    ORDER BY r.scheduled_at DESC LIMIT 1
))
ORDER BY s.tenant, s.name FOR UPDATE OF s SKIP LOCKED
""")

_MOVE = text("""
UPDATE schedules s SET next_at = moved.next_at
FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[]), CAST(:moments AS timestamptz[]))
    AS moved(tenant, name, next_at)
WHERE s.tenant = moved.tenant AND s.name = moved.name
""")


async def get(conn: AsyncConnection, tenant: str, name: str) -> Schedule | None:
    row = (await conn.execute(_GET, {"tenant": tenant, "name": name})).first()
    return None if row is None else _schedule(row)


async def lock(conn: AsyncConnection, tenant: str, name: str) -> tuple[Schedule | None, datetime]:
    """The schedule, ours until the end of the transaction, and the ledger's time once it is."""
    row = (await conn.execute(_LOCK, {"tenant": tenant, "name": name})).first()
    now: datetime = (await conn.execute(_CLOCK)).scalar_one()
    return (None if row is None else _schedule(row)), now


async def put(conn: AsyncConnection, schedule: Schedule) -> tuple[Schedule, bool]:
    """Write it, but for its `created_at` and `updated_at`. Returns it as it is now, and whether it is new."""
    values = {name: getattr(schedule, name) for name in Schedule.__struct_fields__}
    row = (await conn.execute(_PUT, values)).one()
    return _schedule(row), row[-1]


async def delete(conn: AsyncConnection, tenant: str, name: str) -> bool:
    """Whether it was there. Its runs stay: a schedule of the same name must not run a time of theirs again."""
    return bool((await conn.execute(_DELETE, {"tenant": tenant, "name": name})).rowcount)


async def page(conn: AsyncConnection, tenant: str, after: str | None, limit: int) -> list[Schedule]:
    """Up to `limit` schedules by name, from the one after the name `after` on."""
    return [_schedule(row) for row in await conn.execute(_PAGE, {"tenant": tenant, "after": after, "limit": limit})]


async def next_due(conn: Connection) -> float | None:
    """Seconds until the next schedule is due (negative: it is), None when there is none."""
    found = await _NEXT_DUE.rows(conn)
    return float(found[0][0]) if found else None


async def lock_due(conn: AsyncConnection, limit: int) -> tuple[list[Schedule], datetime | None]:
    """Up to `limit` schedules that are due, that nobody else has locked, and the ledger's time (if there are any)."""
    return _with_time((await conn.execute(_LOCK_DUE, {"limit": limit})).all())


async def lock_ahead(conn: AsyncConnection) -> tuple[list[Schedule], datetime | None]:
    """The schedules whose next time was found by a clock that has gone back since, and the ledger's time now."""
    return _with_time((await conn.execute(_LOCK_AHEAD)).all())


async def move(conn: AsyncConnection, moved: Mapping[Key, datetime | None]) -> None:
    """Set the next time of schedules that this transaction holds."""
    values = {
        "tenants": [tenant for tenant, _ in moved],
        "names": [name for _, name in moved],
        "moments": list(moved.values()),
    }
    await conn.execute(_MOVE, values)


def _with_time(rows: Sequence[Sequence[object]]) -> tuple[list[Schedule], datetime | None]:
    now = rows[0][-1] if rows else None
    assert now is None or isinstance(now, datetime)
    return [_schedule(row) for row in rows], now


def _schedule(row: Sequence[object]) -> Schedule:
    return Schedule(**dict(zip(Schedule.__struct_fields__, row, strict=False)))  # type: ignore[arg-type]


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

_PAGE_OF_RUNS = text("""
SELECT r.scheduled_at, r.fired_at, r.outcome, r.reason, r.job_id, j.status
FROM schedule_runs r LEFT JOIN jobs j ON j.id = r.job_id
WHERE r.tenant = :tenant AND r.name = :name
  AND (CAST(:before AS timestamptz) IS NULL OR r.scheduled_at < CAST(:before AS timestamptz))
ORDER BY r.scheduled_at DESC LIMIT :limit
""")


class NewScheduleRun(msgspec.Struct, frozen=True):
    """One time of a schedule, and what is to become of it."""

    tenant: str
    name: str
    scheduled_at: datetime
    outcome: Outcome
    reason: str | None = None
    job_id: UUID | None = None


class ScheduleRun(msgspec.Struct, frozen=True):
    """A run as it was recorded, and the status of its job now (None: there is none, or none any more)."""

    scheduled_at: datetime
    fired_at: datetime
    outcome: str
    reason: str | None
    job_id: UUID | None
    job_status: str | None


async def record_runs(conn: AsyncConnection, runs: Sequence[NewScheduleRun]) -> list[NewScheduleRun]:
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


async def leave_out_runs(conn: AsyncConnection, runs: Sequence[NewScheduleRun], reason: str) -> None:
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


async def page_of_runs(
    conn: AsyncConnection, tenant: str, name: str, before: datetime | None, limit: int
) -> list[ScheduleRun]:
    """Up to `limit` runs, the newest first; `before` is the time of the last one of the page_of_runs before."""
    rows = await conn.execute(_PAGE_OF_RUNS, {"tenant": tenant, "name": name, "before": before, "limit": limit})
    return [ScheduleRun(*row) for row in rows]


def _times(runs: Sequence[NewScheduleRun]) -> dict[str, list[Any]]:
    return {
        "tenants": [run.tenant for run in runs],
        "names": [run.name for run in runs],
        "moments": [run.scheduled_at for run in runs],
    }
