"""What the ledger knows of things that are wrong right now. Each statement reads a bounded number of rows.

`tenant` limits what is read to what is the tenant's; None: everything.
"""

from datetime import datetime
from typing import Any

import msgspec

from accepted.domain.monitoring.statistics import RUNS
from accepted.domain.schedule import GRACE, MISSED, Outcome
from accepted.storage.attempts.claims import UNSERVED_KINDS
from accepted.storage.db.statements import Connection, Row, Statement, struct
from accepted.storage.monitoring.statistics import MINUTE, TEN_MINUTES
from accepted.storage.targets import DEFERRED_FOR
from accepted.storage.webhooks import BREAK, GIVEN_UP
from accepted.storage.workers import ALIVE, serves

MOST = 20
"""Rows of one kind: who sees twenty things that are wrong has enough to do."""

RECENT = 600.0
"""Seconds for which dead letters and crashes count as recent."""

USUAL = 86400.0
"""Seconds over which the usual run time of a type is measured."""

_MINE = "(CAST(:tenant AS text) IS NULL OR {tenant} = CAST(:tenant AS text))"

_UNPUBLISHED = Statement("""
SELECT min(due_at) FROM (
    SELECT due_at FROM outbox WHERE NOT published AND NOT on_hold ORDER BY due_at LIMIT 1
) AS first WHERE due_at < now()
""")

_SAMPLED = Statement("SELECT max(at) FROM queue_samples WHERE queue = ''")

_UNSERVED = Statement(f"""
{UNSERVED_KINDS}
SELECT k.queue, k.unserved AS type, o.since FROM kinds k CROSS JOIN LATERAL (
    SELECT due_at AS since FROM outbox
    WHERE published AND unserved = k.unserved AND queue = k.queue AND {_MINE.format(tenant="tenant")}
    ORDER BY priority DESC, due_at LIMIT 1
) AS o
WHERE NOT EXISTS (
    SELECT FROM workers w WHERE {ALIVE} AND {serves("k.queue")} AND (w.types IS NULL OR k.unserved = ANY(w.types))
)
LIMIT {MOST}
""")

_HELD = Statement(f"""
SELECT h.host, h.reason, h.failures, h.deferred_until, h.updated_at, (SELECT count(*) FROM (
    {DEFERRED_FOR.format(columns="o.job_id").replace(":host", "h.host").replace(":tenant", "h.tenant")} LIMIT 1000
) AS waits) AS waiting
FROM (
    SELECT * FROM targets t WHERE deferred_until IS NOT NULL AND {_MINE.format(tenant="t.tenant")}
    ORDER BY updated_at DESC LIMIT {MOST}
) AS h
""")

_GIVEN_UP = Statement(f"""
SELECT url, failing_since FROM webhook_urls
WHERE failed_at >= failing_since + interval '{GIVEN_UP} seconds' AND failed_at > now() - interval '{BREAK} seconds'
  AND {_MINE.format(tenant="tenant")}
ORDER BY failing_since LIMIT {MOST}
""")

_SCHEDULES = Statement(f"""
SELECT s.name, r.outcome, r.reason, r.scheduled_at, s.next_at,
       s.next_at < now() - interval '{GRACE.total_seconds()} seconds' AS late
FROM (
    SELECT tenant, name, next_at FROM schedules WHERE enabled AND {_MINE.format(tenant="tenant")} LIMIT 2000
) AS s
LEFT JOIN LATERAL (
    SELECT outcome, reason, scheduled_at FROM schedule_runs r
    WHERE r.tenant = s.tenant AND r.name = s.name AND r.outcome <> '{Outcome.TRIGGERED}'
    ORDER BY scheduled_at DESC LIMIT 1
) AS r ON true
WHERE r.outcome = '{Outcome.FAILED}' OR r.reason = '{MISSED}' OR s.next_at IS NULL
   OR s.next_at < now() - interval '{GRACE.total_seconds()} seconds'
ORDER BY r.scheduled_at DESC NULLS LAST LIMIT {MOST}
""")

_RECENT = Statement(f"""
SELECT x.queue, x.type, CAST(sum(s.dead_letters) AS int8) AS dead_letters,
       CAST(sum(s.failed_crashed) AS int8) AS crashed, min(s.at) FILTER (WHERE s.dead_letters > 0) AS dying_since,
       min(s.at) FILTER (WHERE s.failed_crashed > 0) AS crashing_since
FROM statistic_series x JOIN statistics s ON s.series = x.id
WHERE s.span = {MINUTE} AND s.at > now() - interval '{RECENT} seconds' AND x.type <> ''
  AND {_MINE.format(tenant="x.tenant")}
GROUP BY x.queue, x.type HAVING sum(s.dead_letters) > 0 OR sum(s.failed_crashed) > 0
ORDER BY sum(s.dead_letters) + sum(s.failed_crashed) DESC LIMIT {MOST}
""")

_LONGEST = Statement(f"""
SELECT j.id, j.queue, j.type, t.started_at, CAST(EXTRACT(epoch FROM now() - t.started_at) AS float8) AS seconds
FROM attempts t CROSS JOIN LATERAL (SELECT id, tenant, queue, type FROM jobs WHERE id = t.job_id OFFSET 0) AS j
WHERE t.finished_at IS NULL AND t.started_at < now() - CAST(:least AS float8) * interval '1 second'
  AND {_MINE.format(tenant="j.tenant")}
ORDER BY t.started_at LIMIT {MOST}
""")

_USUAL = Statement(f"""
SELECT {", ".join(f"CAST(COALESCE(sum({name}), 0) AS int8) AS {name}" for name in RUNS)}
FROM statistic_series x JOIN statistics s ON s.series = x.id
WHERE x.queue = :queue AND x.type = :type AND s.span IN ({MINUTE}, {TEN_MINUTES})
  AND s.at > now() - interval '{USUAL} seconds'
""")

_BLOCKED = Statement(f"""
SELECT w.name, w.blocked, w.heartbeat_at, j.id AS job_id, j.queue
FROM workers w LEFT JOIN LATERAL (
    SELECT id, tenant, queue FROM jobs WHERE id = CAST(CAST(w.blocked AS json) ->> 'job_id' AS uuid) OFFSET 0
) AS j ON true
WHERE w.blocked IS NOT NULL AND {ALIVE} AND {_MINE.format(tenant="j.tenant")}
ORDER BY w.started_at LIMIT {MOST}
""")


class UnservedKind(msgspec.Struct, frozen=True):
    """Jobs of a type that no live worker of their queue has a handler for; the first has waited since then."""

    queue: str
    type: str
    since: datetime


class HeldHost(msgspec.Struct, frozen=True):
    """A host to which nothing is sent, and how many jobs wait for it."""

    host: str
    reason: str
    failures: int
    deferred_until: datetime
    updated_at: datetime
    waiting: int


class GivenUpReceiver(msgspec.Struct, frozen=True):
    """A URL to which no webhook is sent any more."""

    url: str
    failing_since: datetime


class UnfiredSchedule(msgspec.Struct, frozen=True):
    """An enabled schedule whose last run failed or was missed, or that is late or has no next time."""

    name: str
    outcome: str | None
    reason: str | None
    scheduled_at: datetime | None
    next_at: datetime | None
    late: bool | None


class RecentFailures(msgspec.Struct, frozen=True):
    """What of a type has failed for good or crashed in the last `RECENT` seconds."""

    queue: str
    type: str
    dead_letters: int
    crashed: int
    dying_since: datetime | None
    crashing_since: datetime | None


class LongRun(msgspec.Struct, frozen=True):
    """An attempt that has run for so many seconds."""

    id: Any
    queue: str
    type: str
    started_at: datetime
    seconds: float


class BlockedWorker(msgspec.Struct, frozen=True):
    """A worker whose event loop is held up. `blocked` is JSON text; the job is the one that does it, if any."""

    name: str
    blocked: str
    heartbeat_at: datetime
    job_id: Any
    queue: str | None


async def unpublished_since(conn: Connection) -> datetime | None:
    """Since when the first row is due that no relay has taken; None: there is none."""
    found: datetime | None = await _UNPUBLISHED.value(conn)
    return found


async def sampled_at(conn: Connection) -> datetime | None:
    """When a scheduler last counted what waits."""
    found: datetime | None = await _SAMPLED.value(conn)
    return found


async def unserved(conn: Connection, tenant: str | None, lease_ttl: float) -> list[UnservedKind]:
    rows = await _UNSERVED.rows(conn, tenant=tenant, lease_ttl=float(lease_ttl))
    return [struct(UnservedKind, row) for row in rows]


async def held_hosts(conn: Connection, tenant: str | None) -> list[HeldHost]:
    return [struct(HeldHost, row) for row in await _HELD.rows(conn, tenant=tenant)]


async def given_up(conn: Connection, tenant: str | None) -> list[GivenUpReceiver]:
    return [struct(GivenUpReceiver, row) for row in await _GIVEN_UP.rows(conn, tenant=tenant)]


async def unfired(conn: Connection, tenant: str | None) -> list[UnfiredSchedule]:
    return [struct(UnfiredSchedule, row) for row in await _SCHEDULES.rows(conn, tenant=tenant)]


async def recent_failures(conn: Connection, tenant: str | None) -> list[RecentFailures]:
    return [struct(RecentFailures, row) for row in await _RECENT.rows(conn, tenant=tenant)]


async def long_runs(conn: Connection, tenant: str | None, least: float) -> list[LongRun]:
    """The attempts that have run longest, of those that have run for `least` seconds."""
    return [struct(LongRun, row) for row in await _LONGEST.rows(conn, tenant=tenant, least=least)]


async def usual_runs(conn: Connection, queue: str, type: str) -> list[int]:
    """How many attempts of the type took how long, by the buckets of `RUNS`."""
    row: Row | None = await _USUAL.first(conn, queue=queue, type=type)
    return [0 if row is None else row[name] for name in RUNS]


async def blocked_workers(conn: Connection, tenant: str | None, lease_ttl: float) -> list[BlockedWorker]:
    rows = await _BLOCKED.rows(conn, tenant=tenant, lease_ttl=float(lease_ttl))
    return [struct(BlockedWorker, row) for row in rows]
