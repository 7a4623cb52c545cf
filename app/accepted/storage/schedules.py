"""Schedules and their runs.

A transaction that changes `next_at` holds the lock of the schedule's row. A run is a row for each (tenant, name, time):
its unique index decides, so only the transaction that inserts it submits a job for that time. Every time is the
ledger's: a scheduler whose own clock is wrong fires nothing early, late or twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.schedule import Outcome, Schedule
from accepted.storage.db.statements import Connection, Row, Statement, ledger_time, struct

Key = tuple[str, str]
"""The tenant and the name of a schedule."""

RECENT = 100
"""Latest runs with a job that are searched for an unfinished job."""

_COLUMNS = ", ".join(
    f"CAST(s.{name} AS text) AS {name}" if name == "job" else f"s.{name}" for name in Schedule.__struct_fields__
)
_ONE = f"SELECT {_COLUMNS} FROM schedules s WHERE s.tenant = :tenant AND s.name = :name"
_GET = Statement(_ONE)
_LOCK = Statement(f"{_ONE} FOR UPDATE")

_PUT = Statement(f"""
INSERT INTO schedules AS s
    (tenant, name, cron, timezone, job, on_missed, overlap, spread_over, enabled, next_at)
VALUES (:tenant, :name, :cron, :timezone, CAST(:job AS json), :on_missed, :overlap, :spread_over, :enabled, :next_at)
ON CONFLICT (tenant, name) DO UPDATE SET
    cron = excluded.cron, timezone = excluded.timezone, job = excluded.job, on_missed = excluded.on_missed,
    overlap = excluded.overlap, spread_over = excluded.spread_over, enabled = excluded.enabled,
    next_at = excluded.next_at, updated_at = now()
RETURNING {_COLUMNS}, s.xmax = 0 AS new
""")

_DELETE = Statement("DELETE FROM schedules WHERE tenant = :tenant AND name = :name")

_PAGE = Statement(f"""
SELECT {_COLUMNS} FROM schedules s
WHERE s.tenant = :tenant AND (CAST(:after AS text) IS NULL OR s.name > CAST(:after AS text))
ORDER BY s.name LIMIT :limit
""")

_NEXT_DUE = Statement(
    "SELECT CAST(EXTRACT(epoch FROM next_at - now()) AS float8) FROM schedules "
    "WHERE enabled AND next_at IS NOT NULL ORDER BY next_at LIMIT 1"
)

_LOCK_DUE = Statement(f"""
SELECT {_COLUMNS}, now() AS now FROM schedules s WHERE s.enabled AND s.next_at <= now()
ORDER BY s.next_at LIMIT :limit FOR UPDATE SKIP LOCKED
""")

_LOCK_AHEAD = Statement(f"""
SELECT {_COLUMNS}, now() AS now FROM schedules s
WHERE s.enabled AND s.next_at > now() AND (s.updated_at > now() OR now() < (
    SELECT r.fired_at FROM schedule_runs r WHERE r.tenant = s.tenant AND r.name = s.name
    ORDER BY r.scheduled_at DESC LIMIT 1
))
ORDER BY s.tenant, s.name FOR UPDATE OF s SKIP LOCKED
""")

_MOVE = Statement("""
UPDATE schedules s SET next_at = moved.next_at
FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[]), CAST(:moments AS timestamptz[]))
    AS moved(tenant, name, next_at)
WHERE s.tenant = moved.tenant AND s.name = moved.name
""")

_RECORD = Statement("""
INSERT INTO schedule_runs AS r (tenant, name, scheduled_at, outcome, reason, job_id)
SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[]), CAST(:moments AS timestamptz[]),
                     CAST(:outcomes AS text[]), CAST(:reasons AS text[]), CAST(:jobs AS uuid[]))
ON CONFLICT (tenant, name, scheduled_at) DO UPDATE
    SET outcome = excluded.outcome, reason = excluded.reason, job_id = excluded.job_id, fired_at = now()
    WHERE r.job_id IS NULL AND r.fired_at > now()
RETURNING tenant, name, scheduled_at
""")

_LEAVE_OUT = Statement("""
UPDATE schedule_runs r SET outcome = :outcome, reason = :reason, job_id = NULL
FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[]), CAST(:moments AS timestamptz[]))
    AS one(tenant, name, scheduled_at)
WHERE (r.tenant, r.name, r.scheduled_at) = (one.tenant, one.name, one.scheduled_at)
""")

_TRIGGER = Statement("""
WITH schedule AS MATERIALIZED (
    SELECT tenant, name FROM schedules WHERE tenant = :tenant AND name = :name FOR KEY SHARE
)
INSERT INTO schedule_runs (tenant, name, scheduled_at, outcome, job_id)
SELECT tenant, name, clock_timestamp(), :outcome, CAST(:job_id AS uuid) FROM schedule
ON CONFLICT DO NOTHING
""")

_BUSY = Statement(f"""
SELECT s.tenant, s.name FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[])) AS s(tenant, name)
WHERE EXISTS (
    SELECT 1 FROM (
        SELECT r.job_id FROM schedule_runs r
        WHERE r.tenant = s.tenant AND r.name = s.name AND r.job_id IS NOT NULL
        ORDER BY r.scheduled_at DESC LIMIT {RECENT}
    ) AS recent JOIN jobs j ON j.id = recent.job_id WHERE j.finished_at IS NULL
)
""")

_PAGE_OF_RUNS = Statement("""
SELECT r.scheduled_at, r.fired_at, r.outcome, r.reason, r.job_id, j.status AS job_status
FROM schedule_runs r LEFT JOIN jobs j ON j.id = r.job_id
WHERE r.tenant = :tenant AND r.name = :name
  AND (CAST(:before AS timestamptz) IS NULL OR r.scheduled_at < CAST(:before AS timestamptz))
ORDER BY r.scheduled_at DESC LIMIT :limit
""")


class NewScheduleRun(msgspec.Struct, frozen=True):
    """A scheduled time, and what becomes of it."""

    tenant: str
    name: str
    scheduled_at: datetime
    outcome: Outcome
    reason: str | None = None
    job_id: UUID | None = None


class ScheduleRun(msgspec.Struct, frozen=True):
    """A recorded run, with the status that its job has now; None: it has no job, or the job was pruned."""

    scheduled_at: datetime
    fired_at: datetime
    outcome: str
    reason: str | None
    job_id: UUID | None
    job_status: str | None


async def get(conn: Connection, tenant: str, name: str) -> Schedule | None:
    """The tenant's schedule of this name."""
    row = await _GET.first(conn, tenant=tenant, name=name)
    return None if row is None else struct(Schedule, row)


async def lock(conn: Connection, tenant: str, name: str) -> tuple[Schedule | None, datetime]:
    """The schedule, locked until the transaction ends, and the ledger's time after the lock."""
    row = await _LOCK.first(conn, tenant=tenant, name=name)
    return (None if row is None else struct(Schedule, row)), await ledger_time(conn)


async def put(conn: Connection, schedule: Schedule) -> tuple[Schedule, bool]:
    """Insert or update a schedule; the ledger sets its dates. Returns it, and whether it is new. The caller commits."""
    (row,) = await _PUT.rows(conn, **msgspec.structs.asdict(schedule))
    return struct(Schedule, row), row["new"]


async def delete(conn: Connection, tenant: str, name: str) -> bool:
    """Delete a schedule, and say whether it existed. The caller commits.

    Its runs stay, because a new schedule of the same name must not fire one of their times again.
    """
    return await _DELETE.count(conn, tenant=tenant, name=name) > 0


async def page(conn: Connection, tenant: str, after: str | None, limit: int) -> list[Schedule]:
    """Up to `limit` schedules by name; `after` is the last name of the page before."""
    return [struct(Schedule, row) for row in await _PAGE.rows(conn, tenant=tenant, after=after, limit=limit)]


async def next_due(conn: Connection) -> float | None:
    """Seconds until the next schedule is due, negative if it is due already; None when there is none."""
    seconds: float | None = await _NEXT_DUE.value(conn)
    return seconds


async def lock_due(conn: Connection, limit: int) -> tuple[list[Schedule], datetime | None]:
    """Lock up to `limit` due schedules, except locked ones. Returns them and the ledger's time (None: none is due)."""
    return _with_time(await _LOCK_DUE.rows(conn, limit=limit))


async def lock_ahead(conn: Connection) -> tuple[list[Schedule], datetime | None]:
    """Lock the schedules whose next time comes from a clock that has gone back since. Returns as `lock_due` does."""
    return _with_time(await _LOCK_AHEAD.rows(conn))


async def move(conn: Connection, moved: Mapping[Key, datetime | None]) -> None:
    """Set the next times of locked schedules. The caller commits."""
    await _MOVE.run(conn, **_names(moved), moments=list(moved.values()))


async def record_runs(conn: Connection, runs: Sequence[NewScheduleRun]) -> list[NewScheduleRun]:
    """Insert the runs whose time has no row yet, and return them. The caller commits.

    A run without a job whose `fired_at` is in the future is overwritten: it was recorded by a clock that was ahead.
    """
    written = await _RECORD.rows(
        conn,
        **_times(runs),
        outcomes=[str(run.outcome) for run in runs],
        reasons=[run.reason for run in runs],
        jobs=[run.job_id for run in runs],
    )
    times = {(row["tenant"], row["name"], row["scheduled_at"]) for row in written}
    return [run for run in runs if (run.tenant, run.name, run.scheduled_at) in times]


async def leave_out_runs(conn: Connection, runs: Sequence[NewScheduleRun], reason: str) -> None:
    """Mark runs that this transaction has recorded as skipped. The caller commits."""
    if runs:
        await _LEAVE_OUT.run(conn, **_times(runs), outcome=str(Outcome.SKIPPED), reason=reason)


async def trigger(conn: Connection, tenant: str, name: str, job_id: UUID) -> bool:
    """Record a run that a client asked for, at this moment. False: the schedule does not exist. The caller commits."""
    outcome = str(Outcome.TRIGGERED)
    return await _TRIGGER.count(conn, tenant=tenant, name=name, job_id=job_id, outcome=outcome) > 0


async def busy(conn: Connection, keys: Sequence[Key]) -> set[Key]:
    """Those of these schedules that have a job which has not finished."""
    if not keys:
        return set()
    return {(row["tenant"], row["name"]) for row in await _BUSY.rows(conn, **_names(keys))}


async def page_of_runs(
    conn: Connection, tenant: str, name: str, before: datetime | None, limit: int
) -> list[ScheduleRun]:
    """Up to `limit` runs, the newest first; `before` is the last time of the page before."""
    rows = await _PAGE_OF_RUNS.rows(conn, tenant=tenant, name=name, before=before, limit=limit)
    return [struct(ScheduleRun, row) for row in rows]


def _with_time(rows: Sequence[Row]) -> tuple[list[Schedule], datetime | None]:
    return [struct(Schedule, row) for row in rows], rows[0]["now"] if rows else None


def _names(keys: Iterable[Key]) -> dict[str, list[str]]:
    listed = list(keys)
    return {"tenants": [tenant for tenant, _ in listed], "names": [name for _, name in listed]}


def _times(runs: Sequence[NewScheduleRun]) -> dict[str, list[Any]]:
    return {
        "tenants": [run.tenant for run in runs],
        "names": [run.name for run in runs],
        "moments": [run.scheduled_at for run in runs],
    }
