"""Hosts that failed recently or asked for a pause: one row for each tenant and host.

The rules are in app/accepted/domain/network/targets.py. No row, or one without `deferred_until`: closed. A
`deferred_until` in the future: open. In the past: half open. Then one guarded UPDATE moves it on and wins the one try;
the value it wrote is the fence of the try's report. If the worker dies with it, the moment passes once more and the
next worker tries.
"""

from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.failures import FailureClass
from accepted.domain.network import targets as rules
from accepted.domain.transitions import DEFERRED
from accepted.storage.db.statements import Connection, Statement, struct

_COLUMNS = """
    t.tenant, t.host, t.failures, t.reason, t.deferred_until,
    CAST(EXTRACT(epoch FROM t.deferred_until - clock_timestamp()) AS float8) AS deferred_for, t.updated_at
"""

_ALL = Statement(f"SELECT {_COLUMNS} FROM targets t ORDER BY updated_at DESC LIMIT :limit")

_OF = Statement(
    f"SELECT {_COLUMNS} FROM targets t WHERE tenant = :tenant AND (CAST(:host AS text) IS NULL OR host = :host) "
    "ORDER BY deferred_until DESC NULLS LAST, host LIMIT :limit"
)

_TRY = Statement(f"""
WITH won AS (
    UPDATE targets SET deferred_until = now() + CAST(:lease AS float8) * interval '1 second', updated_at = now()
    WHERE tenant = :tenant AND host = :host AND (deferred_until <= now() OR updated_at > clock_timestamp())
    RETURNING deferred_until
)
SELECT {_COLUMNS}, won.deferred_until AS fence
FROM targets t LEFT JOIN won ON true WHERE t.tenant = :tenant AND t.host = :host
""")

_FAILED = Statement(f"""
INSERT INTO targets AS t (tenant, host, failures, reason) VALUES (:tenant, :host, 1, :reason)
ON CONFLICT (tenant, host) DO UPDATE SET
    failures = CASE WHEN t.deferred_until IS NULL THEN t.failures + 1
                    ELSE GREATEST(t.failures + 1, CAST(:run AS int4)) END,
    reason = excluded.reason, updated_at = now(),
    deferred_until = CASE WHEN t.deferred_until IS NOT NULL OR t.failures + 1 >= CAST(:run AS int4) THEN
        now() + interval '1 second' * CAST(:jitter AS float8) * LEAST(
            CAST(:longest AS float8),
            CAST(:first AS float8) * power(2, LEAST(GREATEST(t.failures + 1 - CAST(:run AS int4), 0), 20)))
        END
WHERE t.deferred_until IS NULL OR t.deferred_until = CAST(:fence AS timestamptz)
RETURNING {_COLUMNS}
""")

_DEFER = Statement(f"""
INSERT INTO targets AS t (tenant, host, failures, reason, deferred_until)
VALUES (:tenant, :host, 0, :reason, now() + CAST(:seconds AS float8) * interval '1 second')
ON CONFLICT (tenant, host) DO UPDATE SET
    reason = excluded.reason, updated_at = now(),
    deferred_until = CASE WHEN t.deferred_until = CAST(:fence AS timestamptz) THEN excluded.deferred_until
                      ELSE GREATEST(t.deferred_until, excluded.deferred_until) END
RETURNING {_COLUMNS}
""")

_ANSWERS = Statement("""
DELETE FROM targets t
WHERE tenant = :tenant AND host = :host AND (deferred_until IS NULL OR deferred_until = CAST(:fence AS timestamptz))
RETURNING deferred_until IS NOT NULL
""")

_RELEASE = Statement("DELETE FROM targets t WHERE tenant = :tenant AND host = :host")

DEFERRED_FOR = f"""
    SELECT {{columns}}
    FROM outbox o
    JOIN attempts t ON t.job_id = o.job_id AND t.attempt = o.attempt
    JOIN jobs j ON j.id = o.job_id
    WHERE NOT o.published AND NOT o.on_hold AND o.attempt > 0
      AND t.outcome = '{DEFERRED}' AND t.target = :host AND j.tenant = :tenant
"""
"""The rows of `outbox o` whose last attempt was deferred for :host."""

_WAKE = Statement(f"""
WITH waiting AS MATERIALIZED (
    {DEFERRED_FOR.format(columns="o.job_id, o.attempt, o.due_at")}
      AND o.due_at > GREATEST(now(), CAST(:after AS timestamptz))
      AND NOT EXISTS (SELECT FROM targets WHERE tenant = :tenant AND host = :host AND deferred_until > now())
    ORDER BY o.due_at LIMIT :limit FOR UPDATE OF o SKIP LOCKED
), paced AS (
    SELECT job_id, attempt, now() + interval '1 second' * CAST(:ramp AS float8) * ln(
        1 + (CAST(:done AS int8) + row_number() OVER (ORDER BY due_at) - 1) / CAST(:at_first AS float8)
    ) / ln(2.0::float8) AS due_at
    FROM waiting
), brought_forward AS (
    UPDATE outbox o SET due_at = LEAST(o.due_at, p.due_at) FROM paced p WHERE o.job_id = p.job_id
), told AS (
    UPDATE jobs j SET run_at = LEAST(j.run_at, p.due_at)
    FROM paced p WHERE j.id = p.job_id AND j.attempt = p.attempt AND j.status = 'retrying'
)
SELECT job_id, due_at FROM waiting ORDER BY due_at
""")


class TargetHealth(msgspec.Struct, frozen=True):
    """What the ledger knows of a host. `deferred_for`: seconds from when it was read; negative: it may be tried."""

    tenant: str
    host: str
    failures: int
    reason: str
    deferred_until: datetime | None
    deferred_for: float | None
    updated_at: datetime

    @property
    def state(self) -> str:
        if self.deferred_for is None:
            return "closed"
        return "open" if self.deferred_for > 0 else "half_open"


class Tried(msgspec.Struct, frozen=True):
    """The answer to a request for the one try: `fence` is set for the caller that got it."""

    target: TargetHealth
    fence: datetime | None


async def everything(conn: Connection, limit: int) -> list[TargetHealth]:
    """Up to `limit` rows of all tenants, the latest change first."""
    return [struct(TargetHealth, row) for row in await _ALL.rows(conn, limit=limit)]


async def of_tenant(conn: Connection, tenant: str, limit: int, host: str | None = None) -> list[TargetHealth]:
    """Up to `limit` rows of a tenant, those deferred longest first; or the one of `host`."""
    return [struct(TargetHealth, row) for row in await _OF.rows(conn, tenant=tenant, host=host, limit=limit)]


async def try_(conn: Connection, tenant: str, host: str, lease: float) -> Tried | None:
    """Ask for the one try of a half-open host, for `lease` seconds. None: the host is closed. The caller commits."""
    row = await _TRY.first(conn, tenant=tenant, host=host, lease=lease)
    return None if row is None else Tried(struct(TargetHealth, row), row["fence"])


async def failed(
    conn: Connection, tenant: str, host: str, reason: FailureClass, fence: datetime | None, chance: float
) -> TargetHealth | None:
    """Record a failed call. Ignored (None) while the host is deferred, unless it was the try with this fence.

    `chance` from 0 to 1 is the jitter of the deferral. The caller commits.
    """
    row = await _FAILED.first(
        conn, tenant=tenant, host=host, reason=str(reason), fence=fence, run=rules.RUN, first=rules.FIRST,
        longest=rules.LONGEST, jitter=1 + rules.JITTER * chance,
    )  # fmt: skip
    return None if row is None else struct(TargetHealth, row)


async def defer(
    conn: Connection, tenant: str, host: str, seconds: float, fence: datetime | None
) -> TargetHealth | None:
    """Defer the host for as long as it asked for (Retry-After). The caller commits."""
    reason = str(FailureClass.RATE_LIMITED)
    (row,) = await _DEFER.rows(conn, tenant=tenant, host=host, seconds=seconds, reason=reason, fence=fence)
    return struct(TargetHealth, row)


async def answers(conn: Connection, tenant: str, host: str, fence: datetime | None) -> bool:
    """Record an answered call. It ends a run of failures; with the fence of the try also a deferral: then True.

    The caller commits.
    """
    return bool(await _ANSWERS.value(conn, tenant=tenant, host=host, fence=fence))


async def release(conn: Connection, tenant: str, host: str) -> bool:
    """Delete the host's row. False: it had none. The caller commits."""
    return await _RELEASE.count(conn, tenant=tenant, host=host) > 0


async def wake(
    conn: Connection, tenant: str, host: str, after: datetime | None, done: int, limit: int
) -> list[tuple[UUID, datetime]]:
    """Bring up to `limit` jobs forward that wait for `host`, at the pace of the ramp after `done` of them.

    They were due after `after`, and are returned in that order, each with its former time. A job that is due sooner
    anyway stays as it is, and so do all while the host is deferred again: one of them must be left to try it. The
    caller commits.
    """
    rows = await _WAKE.rows(
        conn, tenant=tenant, host=host, after=after, done=done, limit=limit,
        ramp=rules.RAMP, at_first=float(rules.AT_FIRST),
    )  # fmt: skip
    return [(row["job_id"], row["due_at"]) for row in rows]
