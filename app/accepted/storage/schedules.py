"""Schedules, and which of them are due. Whoever moves `next_at` holds the lock of its row.

Every time is the ledger's: a scheduler whose own clock is wrong fires nothing early, late or twice.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.schedule import Schedule
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
ORDER BY s.name LIMIT :most
""")

_NEXT_DUE = Statement(
    "SELECT CAST(EXTRACT(epoch FROM next_at - now()) AS float8) FROM schedules "
    "WHERE enabled AND next_at IS NOT NULL ORDER BY next_at LIMIT 1"
)

_LOCK_DUE = text(f"""
SELECT {_COLUMNS}, now() FROM schedules s WHERE s.enabled AND s.next_at <= now()
ORDER BY s.next_at LIMIT :most FOR UPDATE SKIP LOCKED
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


async def page(conn: AsyncConnection, tenant: str, after: str | None, most: int) -> list[Schedule]:
    """Up to `most` schedules by name, from the one after the name `after` on."""
    return [_schedule(row) for row in await conn.execute(_PAGE, {"tenant": tenant, "after": after, "most": most})]


async def next_due(conn: Connection) -> float | None:
    """Seconds until the next schedule is due (negative: it is), None when there is none."""
    found = await _NEXT_DUE.rows(conn)
    return float(found[0][0]) if found else None


async def lock_due(conn: AsyncConnection, most: int) -> tuple[list[Schedule], datetime | None]:
    """Up to `most` schedules that are due, without those that others hold, and the ledger's time (if there are any)."""
    return _with_time((await conn.execute(_LOCK_DUE, {"most": most})).all())


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
