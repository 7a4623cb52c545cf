"""Hosts that have failed of late, or asked to be left alone: one row each, for a tenant
(app/accepted/domain/network/targets.py).

No row: closed, like one whose `held_until` is empty and whose run of failures is still short. `held_until` ahead: open.
Past: half open. Whoever then moves it on by his guarded UPDATE has the one try, and `held_until` as he left it is the
fence of what he reports. If he dies with it, the moment passes once more, and the next one tries.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.failures import FailureClass
from accepted.domain.network import targets as rules
from accepted.domain.transitions import HELD_BACK
from accepted.storage.db.statements import Connection, Statement

_COLUMNS = """
    t.tenant, t.host, t.failures, t.reason, t.held_until,
    CAST(EXTRACT(epoch FROM t.held_until - clock_timestamp()) AS float8), t.updated_at
"""

_ALL = Statement(f"SELECT {_COLUMNS} FROM targets t ORDER BY updated_at DESC LIMIT :limit")

_OF = Statement(
    f"SELECT {_COLUMNS} FROM targets t WHERE tenant = :tenant AND (CAST(:host AS text) IS NULL OR host = :host) "
    "ORDER BY held_until DESC NULLS LAST, host LIMIT :limit"
)

_TRY = Statement(f"""
WITH won AS (
    UPDATE targets SET held_until = now() + CAST(:lease AS float8) * interval '1 second', updated_at = now()
    WHERE tenant = :tenant AND host = :host AND held_until <= now()
    RETURNING held_until
)
SELECT {_COLUMNS}, won.held_until FROM targets t LEFT JOIN won ON true WHERE t.tenant = :tenant AND t.host = :host
""")

_FAILED = Statement(f"""
INSERT INTO targets AS t (tenant, host, failures, reason) VALUES (:tenant, :host, 1, :reason)
ON CONFLICT (tenant, host) DO UPDATE SET
    failures = CASE WHEN t.held_until IS NULL THEN t.failures + 1
                    ELSE GREATEST(t.failures + 1, CAST(:run AS int4)) END,
    reason = excluded.reason, updated_at = now(),
    held_until = CASE WHEN t.held_until IS NOT NULL OR t.failures + 1 >= CAST(:run AS int4) THEN
        now() + interval '1 second' * CAST(:jitter AS float8) * LEAST(
            CAST(:longest AS float8),
            CAST(:first AS float8) * power(2, LEAST(GREATEST(t.failures + 1 - CAST(:run AS int4), 0), 20)))
        END
WHERE t.held_until IS NULL OR t.held_until = CAST(:fence AS timestamptz)
RETURNING {_COLUMNS}
""")

_HOLD = Statement(f"""
INSERT INTO targets AS t (tenant, host, failures, reason, held_until)
VALUES (:tenant, :host, 0, :reason, now() + CAST(:seconds AS float8) * interval '1 second')
ON CONFLICT (tenant, host) DO UPDATE SET
    reason = excluded.reason, updated_at = now(),
    held_until = CASE WHEN t.held_until = CAST(:fence AS timestamptz) THEN excluded.held_until
                      ELSE GREATEST(t.held_until, excluded.held_until) END
RETURNING {_COLUMNS}
""")

_ANSWERS = Statement("""
DELETE FROM targets t
WHERE tenant = :tenant AND host = :host AND (held_until IS NULL OR held_until = CAST(:fence AS timestamptz))
RETURNING held_until IS NOT NULL
""")

_RELEASE = Statement("DELETE FROM targets t WHERE tenant = :tenant AND host = :host RETURNING host")

_WAKE = Statement(f"""
WITH waiting AS MATERIALIZED (
    SELECT o.job_id, o.attempt, o.due_at
    FROM outbox o
    JOIN attempts t ON t.job_id = o.job_id AND t.attempt = o.attempt
    JOIN jobs j ON j.id = o.job_id
    WHERE NOT o.published AND NOT o.held AND o.due_at > GREATEST(now(), CAST(:after AS timestamptz)) AND o.attempt > 0
      AND t.outcome = '{HELD_BACK}' AND starts_with(t.error->>'message', CAST(:said AS text)) AND j.tenant = :tenant
      AND NOT EXISTS (SELECT FROM targets WHERE tenant = :tenant AND host = :host AND held_until > now())
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
    """A host as the ledger has it. `held_for` is in seconds from when it was read; negative: it may be tried."""

    tenant: str
    host: str
    failures: int
    reason: str
    held_until: datetime | None
    held_for: float | None
    updated_at: datetime

    @property
    def state(self) -> str:
        if self.held_for is None:
            return "closed"
        return "open" if self.held_for > 0 else "half_open"


class Tried(msgspec.Struct, frozen=True):
    """What came of asking for the one try: `fence` is set for who has it."""

    target: Target
    fence: datetime | None


async def everything(conn: Connection, limit: int) -> list[Target]:
    """All tenants' rows, the freshest first."""
    return [Target(*row) for row in await _ALL.rows(conn, limit=limit)]


async def of_tenant(conn: Connection, tenant: str, limit: int, host: str | None = None) -> list[Target]:
    """The rows of a tenant, what is held back longest first; or the one of `host`."""
    return [Target(*row) for row in await _OF.rows(conn, tenant=tenant, host=host, limit=limit)]


async def try_(conn: Connection, tenant: str, host: str, lease: float) -> Tried | None:
    """Ask for the one try of a half-open host, for `lease` seconds. None: nothing is known against it."""
    rows = await _TRY.rows(conn, tenant=tenant, host=host, lease=lease)
    return None if not rows else Tried(Target(*rows[0][:7]), rows[0][7])


async def failed(
    conn: Connection, tenant: str, host: str, reason: FailureClass, fence: datetime | None, chance: float
) -> Target | None:
    """A call has failed. Ignored (None) while the host is held back, unless by who had the try."""
    rows = await _FAILED.rows(
        conn, tenant=tenant, host=host, reason=str(reason), fence=fence, run=rules.RUN, first=rules.FIRST,
        longest=rules.LONGEST, jitter=1 + rules.JITTER * chance,
    )  # fmt: skip
    return _one(rows)


async def hold(conn: Connection, tenant: str, host: str, seconds: float, fence: datetime | None) -> Target | None:
    """It asked to be left alone for so long."""
    reason = str(FailureClass.RATE_LIMITED)
    return _one(await _HOLD.rows(conn, tenant=tenant, host=host, seconds=seconds, reason=reason, fence=fence))


async def answers(conn: Connection, tenant: str, host: str, fence: datetime | None) -> bool:
    """A call was answered: the run of failures is over, or, by who had the try, the hold. True: it had been held."""
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
    sooner anyway is left as it is; and all are while the host is held back again, or none would be there to try it.
    """
    rows = await _WAKE.rows(
        conn, tenant=tenant, host=host, said=rules.held_from(host), after=after, done=done, limit=limit,
        ramp=rules.RAMP, at_first=float(rules.AT_FIRST),
    )  # fmt: skip
    return [(row[0], row[1]) for row in rows]


def _one(rows: Sequence[Sequence[Any]]) -> Target | None:
    return Target(*rows[0]) if rows else None
