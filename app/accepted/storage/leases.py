"""Leases over HTTP: the claim of a worker that exists for one attempt, and what it may say of it.

Such a worker is a row of `workers` with a moment at which the time of its attempt is up. It is written by the claim and
deleted with the outcome, so the rescuer and the fence find in it what they find in any worker.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.failures import OnNotFound
from accepted.domain.job import DEFAULT_TIMEOUT, INTERNAL_TYPES
from accepted.domain.references import Lease
from accepted.domain.transitions import MAX_UNSERVED_WAIT, RunningAttempt
from accepted.storage.attempts.claims import ALLOWED, RUN
from accepted.storage.db.notifications import ANNOUNCE
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.workers import running_attempt

TOLD = 2.0
"""Seconds that a worker has to let go once it was told that its job is to be cancelled."""

_WANTED = f"""
    {ALLOWED} AND o.queue = :queue AND (o.expires_at IS NULL OR o.expires_at > now())
    AND j.tenant = :tenant AND j.type <> ALL(CAST(:internal AS text[]))
    AND (CAST(:types AS text[]) IS NULL OR j.type = ANY(CAST(:types AS text[])))
"""

_LOCK = f"""
    SELECT ready.job_id, ready.attempt FROM (
        SELECT * FROM (
            SELECT o.job_id, o.attempt, o.priority, o.due_at FROM outbox o JOIN jobs j ON j.id = o.job_id
            WHERE o.published AND {_WANTED}
            ORDER BY o.priority DESC, o.due_at LIMIT :limit FOR UPDATE OF o SKIP LOCKED
        ) AS published
        UNION ALL
        SELECT * FROM (
            SELECT o.job_id, o.attempt, o.priority, o.due_at FROM outbox o JOIN jobs j ON j.id = o.job_id
            WHERE NOT o.published AND o.due_at < now() + interval '{MAX_UNSERVED_WAIT} seconds'
              AND j.status = 'queued' AND EXISTS (SELECT 1 FROM job_types y WHERE y.name = j.type AND y.external)
              AND {_WANTED}
            ORDER BY o.due_at LIMIT :limit FOR UPDATE OF o SKIP LOCKED
        ) AS unpublished
    ) AS ready ORDER BY ready.priority DESC, ready.due_at LIMIT :limit
"""
"""Jobs of an external type are leased unpublished too: while the broker is away, or while they wait because a Python
worker has handed them back."""

_CLAIM = Statement(f"""
WITH locked AS MATERIALIZED ({_LOCK}), {RUN}, held AS MATERIALIZED (
    SELECT r.id, r.attempt, r.started_at, r.queue, r.type, gen_random_uuid() AS worker_id,
           r.started_at + COALESCE(r.timeout, y.timeout, {DEFAULT_TIMEOUT}) * interval '1 second' AS ends_at
    FROM running r LEFT JOIN job_types y ON y.name = r.type
), leased AS (
    INSERT INTO attempts (job_id, attempt, worker_id, started_at) SELECT id, attempt, worker_id, started_at FROM held
), known AS (
    INSERT INTO workers (id, name, slots, queues, types, ends_at)
    SELECT worker_id, :name, 1, ARRAY[queue], ARRAY[type], ends_at FROM held
)
SELECT id, attempt, worker_id, started_at, ends_at, {ANNOUNCE.format(rows="held")} FROM held
""")

_FENCE = """
    t.job_id = :job_id AND t.attempt = :attempt AND t.worker_id = :worker_id
"""

_HELD = """
SELECT t.job_id, t.attempt, t.worker_id, j.max_attempts, j.crashes, CAST(j.retry AS text),
       y.max_attempts, y.schedule, y.jitter, COALESCE(y.not_found, 'fail'), t.cancel_requested_at IS NOT NULL,
       COALESCE(j.timeout, y.timeout, {timeout}), j.tenant, j.type, j.queue, t.started_at,
       t.finished_at IS NULL AND j.status = 'running' AND j.attempt = t.attempt, w.id IS NULL OR w.ends_at IS NOT NULL
FROM attempts t JOIN jobs j ON j.id = t.job_id LEFT JOIN job_types y ON y.name = j.type
LEFT JOIN workers w ON w.id = t.worker_id
WHERE {condition}
"""

_FIND = Statement(_HELD.format(timeout=DEFAULT_TIMEOUT, condition=_FENCE))

_OVERDUE = Statement(
    _HELD.format(
        timeout=DEFAULT_TIMEOUT, condition="t.finished_at IS NULL AND w.ends_at <= now() ORDER BY t.job_id LIMIT :limit"
    )
)

_HEARTBEAT = Statement(f"""
UPDATE workers w SET
    heartbeat_at = now(),
    ends_at = CASE WHEN t.cancel_requested_at IS NULL THEN w.ends_at
                   ELSE LEAST(w.ends_at, now() + interval '{TOLD} seconds') END
FROM attempts t JOIN jobs j ON j.id = t.job_id
WHERE {_FENCE} AND w.id = t.worker_id AND w.ends_at IS NOT NULL AND t.finished_at IS NULL
  AND j.tenant = :tenant AND j.status = 'running' AND j.attempt = t.attempt
RETURNING w.heartbeat_at, w.ends_at, t.cancel_requested_at IS NOT NULL
""")

_RETIRE = Statement("DELETE FROM workers WHERE id = ANY(CAST(:ids AS uuid[])) AND ends_at IS NOT NULL")

_RETIRE_IDLE = Statement("""
DELETE FROM workers w WHERE ends_at IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM attempts t WHERE t.worker_id = w.id AND t.finished_at IS NULL)
""")


class Leased(msgspec.Struct, frozen=True):
    """A lease just given out: since when, and when the time of its attempt is up."""

    lease: Lease
    started_at: datetime
    ends_at: datetime


class Beat(msgspec.Struct, frozen=True):
    """A heartbeat that counted, and whether its worker has now been told to let go."""

    at: datetime
    ends_at: datetime
    cancelled: bool


class Found(msgspec.Struct, frozen=True):
    """An attempt as the ledger has it: what is needed to end it, and whether that is still to be done.

    `timeout` is in seconds. `over_http`: no worker process holds it.
    """

    running: RunningAttempt
    cancelled: bool
    timeout: float
    tenant: str
    type: str
    queue: str
    started_at: datetime
    open: bool
    over_http: bool


async def claim(
    conn: Connection, *, name: str, tenant: str, queue: str, types: Sequence[str] | None, limit: int
) -> list[Leased]:
    """Claim up to `limit` of the tenant's jobs that are ready on `queue`, of these types (None: of any).

    Each gets a worker of its own, called `name`. The caller commits.
    """
    rows = await _CLAIM.rows(
        conn,
        name=name,
        tenant=tenant,
        queue=queue,
        types=None if types is None else list(types),
        internal=list(INTERNAL_TYPES),
        limit=limit,
    )
    return [Leased(Lease(*row[:3]), row[3], row[4]) for row in rows]


async def find(conn: Connection, lease: Lease) -> Found | None:
    """That attempt, open or not; None if there never was one, or its job was pruned."""
    rows = await _FIND.rows(conn, **_values(lease))
    return _found(rows[0]) if rows else None


async def overdue(conn: Connection, limit: int) -> list[Found]:
    """Up to `limit` attempts under a lease whose time is up."""
    return [_found(row) for row in await _OVERDUE.rows(conn, limit=limit)]


async def heartbeat(conn: Connection, tenant: str, lease: Lease) -> Beat | None:
    """The lease is good for another `LEASE_TTL`; None if it does not hold any more. The caller commits."""
    rows = await _HEARTBEAT.rows(conn, tenant=tenant, **_values(lease))
    return Beat(*rows[0]) if rows else None


async def retire(conn: Connection, worker_ids: Sequence[UUID]) -> None:
    """The attempts of these are over. The caller commits."""
    await _RETIRE.rows(conn, ids=list(worker_ids))


async def retire_idle(conn: Connection) -> None:
    """Forget the workers of leases that somebody else has ended."""
    await _RETIRE_IDLE.rows(conn)


def _found(row: Sequence[Any]) -> Found:
    running = msgspec.structs.replace(running_attempt(row[:9]), not_found=OnNotFound(row[9]))
    return Found(running, *row[10:])


def _values(lease: Lease) -> dict[str, object]:
    return {"job_id": lease.job_id, "attempt": lease.attempt, "worker_id": lease.worker_id}
