"""Hosts that failed recently or asked for a pause: one row for each tenant and host.

The rules are in app/accepted/domain/network/targets.py. No row, or one without `deferred_until`: closed. A
`deferred_until` in the future: open. In the past: half open. Then one guarded UPDATE moves it on and wins the one try;
the value it wrote is the fence of the try's report. If the worker dies with it, the moment passes once more and the
next worker tries.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.failures import FailureClass
from accepted.domain.network import targets as rules
from accepted.domain.transitions import DEFERRED
from accepted.storage.db.statements import Connection, Statement

_COLUMNS = """
    t.tenant, t.host, t.failures, t.reason, t.deferred_until,
    CAST(EXTRACT(epoch FROM t.deferred_until - clock_timestamp()) AS float8), t.updated_at
"""

_ALL = Statement(f"SELECT {_COLUMNS} FROM targets t ORDER BY updated_at DESC LIMIT :limit")

_OF = Statement(
    f"SELECT {_COLUMNS} FROM targets t WHERE tenant = :tenant AND (CAST(:host AS text) IS NULL OR host = :host) "
    "ORDER BY deferred_until DESC NULLS LAST, host LIMIT :limit"
)

_TRY = Statement(f"""
WITH won AS (
    UPDATE targets SET deferred_until = now() + CAST(:lease AS float8) * interval '1 second', updated_at = now()
    WHERE tenant = :tenant AND host = :host AND deferred_until <= now()
    RETURNING deferred_until
)
SELECT {_COLUMNS}, won.deferred_until FROM targets t LEFT JOIN won ON true WHERE t.tenant = :tenant AND t.host = :host
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

_RELEASE = Statement("DELETE FROM targets t WHERE tenant = :tenant AND host = :host RETURNING host")

_WAKE = Statement(f"""
WITH waiting AS MATERIALIZED (
    SELECT o.job_id, o.attempt, o.due_at
    FROM outbox o
    JOIN attempts t ON t.job_id = o.job_id AND t.attempt = o.attempt
    JOIN jobs j ON j.id = o.job_id
    WHERE NOT o.published AND NOT o.held AND o.due_at > GREATEST(now(), CAST(:after AS timestamptz)) AND o.attempt > 0
      AND t.outcome = '{DEFERRED}' AND starts_with(t.error->>'message', CAST(:said AS text)) AND j.tenant = :tenant
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


class Target(msgspec.Struct, frozen=True):
    """A host as the ledger has it. `deferred_for`: seconds from when it was read; negative: it may be tried."""

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
    """What came of asking for the one try: `fence` is set for who has it."""

    target: Target
    fence: datetime | None


async def everything(conn: Connection, limit: int) -> list[Target]:
    """All tenants' rows, the freshest first."""
    return [Target(*row) for row in await _ALL.rows(conn, limit=limit)]


async def of_tenant(conn: Connection, tenant: str, limit: int, host: str | None = None) -> list[Target]:
    """The rows of a tenant, those deferred longest first; or the one of `host`."""
    return [Target(*row) for row in await _OF.rows(conn, tenant=tenant, host=host, limit=limit)]


async def try_(conn: Connection, tenant: str, host: str, lease: float) -> Tried | None:
    """Ask for the one try of a half-open host, for `lease` seconds. None: nothing is known against it."""
    rows = await _TRY.rows(conn, tenant=tenant, host=host, lease=lease)
    return None if not rows else Tried(Target(*rows[0][:7]), rows[0][7])


async def failed(
    conn: Connection, tenant: str, host: str, reason: FailureClass, fence: datetime | None, chance: float
) -> Target | None:
    """Record a failed call. Ignored (None) while the host is deferred, unless it was the try with this fence."""
    rows = await _FAILED.rows(
        conn, tenant=tenant, host=host, reason=str(reason), fence=fence, run=rules.RUN, first=rules.FIRST,
        longest=rules.LONGEST, jitter=1 + rules.JITTER * chance,
    )  # fmt: skip
    return _one(rows)


async def defer(conn: Connection, tenant: str, host: str, seconds: float, fence: datetime | None) -> Target | None:
    """Defer the host for as long as it asked for (Retry-After)."""
    reason = str(FailureClass.RATE_LIMITED)
    return _one(await _DEFER.rows(conn, tenant=tenant, host=host, seconds=seconds, reason=reason, fence=fence))


async def answers(conn: Connection, tenant: str, host: str, fence: datetime | None) -> bool:
    """Record an answered call. It ends a run of failures; with the fence of the try also a deferral: then True."""
    rows = await _ANSWERS.rows(conn, tenant=tenant, host=host, fence=fence)
    return bool(rows) and bool(rows[0][0])


async def release(conn: Connection, tenant: str, host: str) -> bool:
    """Forget what is known against it. False: nothing is."""
    return bool(await _RELEASE.rows(conn, tenant=tenant, host=host))


async def wake(
    conn: Connection, tenant: str, host: str, after: datetime | None, done: int, limit: int
) -> list[tuple[UUID, datetime]]:
    """Bring up to `limit` jobs forward that wait for `host`, at the pace that the ramp has after `done` of them.

    Those due after `after`, in the order in which they were due; returns each with when that was. A job that comes
    sooner anyway is left as it is; and so are all while the host is deferred again, or no job would be left to try it.
    """
    rows = await _WAKE.rows(
        conn, tenant=tenant, host=host, said=rules.deferred_for_host(host), after=after, done=done, limit=limit,
        ramp=rules.RAMP, at_first=float(rules.AT_FIRST),
    )  # fmt: skip
    return [(row[0], row[1]) for row in rows]


def _one(rows: Sequence[Sequence[Any]]) -> Target | None:
    return Target(*rows[0]) if rows else None
