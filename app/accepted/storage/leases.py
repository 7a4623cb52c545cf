"""Leases over HTTP: each claim makes a worker row that exists for one attempt.

`ends_at` of the row is when the timeout of the attempt ends. The claim inserts it and the outcome deletes it, so the
fence and the rescuer work as for any worker.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.failures import OnNotFound
from accepted.domain.job import DEFAULT_TIMEOUT, INTERNAL_TYPES
from accepted.domain.references import Lease
from accepted.domain.retry import LONGEST_WAIT
from accepted.domain.transitions import MAX_UNSERVED_WAIT, RunningAttempt
from accepted.storage.attempts.claims import ALLOWED, RUN, STILL_OPEN, lease_values
from accepted.storage.db.notifications import ANNOUNCE
from accepted.storage.db.statements import Connection, Row, Statement, struct
from accepted.storage.workers import RUNNING_ATTEMPT, running_attempt, type_of

CANCEL_GRACE = 2.0
"""Seconds that a worker has to end its attempt after a heartbeat has told it of the cancel."""

_WANTED = f"""
    {ALLOWED} AND o.queue = :queue AND (o.expires_at IS NULL OR o.expires_at > now())
    AND j.tenant = :tenant AND j.type <> ALL(CAST(:internal AS text[]))
    AND (CAST(:types AS text[]) IS NULL OR j.type = ANY(CAST(:types AS text[])))
"""

_LOCK = f"""
    SELECT ready.job_id, ready.attempt FROM (
        SELECT * FROM (
            SELECT o.job_id, o.attempt, o.priority, o.due_at FROM outbox o JOIN jobs j ON j.id = o.job_id
            WHERE o.published AND o.unserved = '' AND {_WANTED}
            ORDER BY o.priority DESC, o.due_at LIMIT :limit FOR UPDATE OF o SKIP LOCKED
        ) AS published
        UNION ALL
        SELECT * FROM (
            SELECT o.job_id, o.attempt, o.priority, o.due_at FROM outbox o JOIN jobs j ON j.id = o.job_id
            WHERE o.published AND o.unserved <> '' AND {_WANTED}
              AND (CAST(:types AS text[]) IS NULL OR o.unserved = ANY(CAST(:types AS text[])))
            ORDER BY o.priority DESC, o.due_at LIMIT :limit FOR UPDATE OF o SKIP LOCKED
        ) AS set_aside
        UNION ALL
        SELECT * FROM (
            SELECT o.job_id, o.attempt, o.priority, o.due_at FROM outbox o JOIN jobs j ON j.id = o.job_id
            WHERE NOT o.published AND o.due_at < now() + interval '{MAX_UNSERVED_WAIT} seconds'
              AND j.status = 'queued' AND (SELECT y.external FROM {type_of("j")})
              AND {_WANTED}
            ORDER BY o.due_at LIMIT :limit FOR UPDATE OF o SKIP LOCKED
        ) AS unpublished
    ) AS ready ORDER BY ready.priority DESC, ready.due_at LIMIT :limit
"""
"""Jobs of an external type are leased unpublished too, while the broker is unavailable. Those that worker processes
have set aside are leased as if they were published."""

_CLAIM = Statement(f"""
WITH locked AS MATERIALIZED ({_LOCK}), {RUN}, leased AS MATERIALIZED (
    SELECT r.id, r.attempt, r.started_at, r.queue, r.type, gen_random_uuid() AS worker_id,
           CASE WHEN NOT r.in_workflow AND r.crashes = 0 AND r.ordering_key IS NULL
                THEN CAST(GREATEST(EXTRACT(epoch FROM r.started_at - r.run_at), 0) AS float8) END AS waited,
           r.started_at + interval '1 second'
               * LEAST(COALESCE(r.timeout, y.timeout, {DEFAULT_TIMEOUT}), {LONGEST_WAIT}) AS ends_at
    FROM running r LEFT JOIN {type_of("r")} ON true
), opened AS (
    INSERT INTO attempts (job_id, attempt, worker_id, started_at) SELECT id, attempt, worker_id, started_at FROM leased
), known AS (
    INSERT INTO workers (id, name, slots, queues, types, ends_at)
    SELECT worker_id, :name, 1, ARRAY[queue], ARRAY[type], ends_at FROM leased
)
SELECT id, attempt, worker_id, started_at, ends_at, waited, {ANNOUNCE.format(rows="leased")} FROM leased
""")
"""One statement, as any claim; it inserts the worker row of each lease, too. The LEAST is for the row of a type with a
timeout that is no interval, which would stop the claim of all jobs of the queue."""

_FENCE = "t.job_id = :job_id AND t.attempt = :attempt AND t.worker_id = :worker_id"

_ATTEMPT = f"""
SELECT {RUNNING_ATTEMPT}, COALESCE(y.not_found, 'fail') AS not_found,
       t.cancel_requested_at IS NOT NULL AS cancelled, COALESCE(j.timeout, y.timeout, {DEFAULT_TIMEOUT}) AS timeout,
       j.tenant, j.type, j.queue, t.started_at,
       t.finished_at IS NULL AND j.status = 'running' AND j.attempt = t.attempt AS open,
       w.id IS NULL OR w.ends_at IS NOT NULL AS over_http
FROM attempts t JOIN jobs j ON j.id = t.job_id LEFT JOIN {type_of("j")} ON true
LEFT JOIN workers w ON w.id = t.worker_id
"""

_FIND = Statement(f"{_ATTEMPT} WHERE {_FENCE}")

_OVERDUE = Statement(f"""
{_ATTEMPT}
WHERE t.finished_at IS NULL AND t.worker_id = ANY(ARRAY(SELECT id FROM workers WHERE ends_at <= now()))
ORDER BY t.job_id LIMIT :limit
""")

_HEARTBEAT = Statement(f"""
UPDATE workers w SET
    heartbeat_at = now(),
    ends_at = CASE WHEN t.cancel_requested_at IS NULL THEN w.ends_at
                   ELSE LEAST(w.ends_at, now() + interval '{CANCEL_GRACE} seconds') END
FROM attempts t JOIN jobs j ON j.id = t.job_id
WHERE {_FENCE} AND w.id = t.worker_id AND w.ends_at IS NOT NULL AND {STILL_OPEN}
  AND j.tenant = :tenant AND j.status = 'running' AND j.attempt = t.attempt
RETURNING w.heartbeat_at AS at, w.ends_at, t.cancel_requested_at IS NOT NULL AS cancelled
""")

_RETIRE = Statement("DELETE FROM workers WHERE id = ANY(CAST(:ids AS uuid[])) AND ends_at IS NOT NULL")

_RETIRE_IDLE = Statement("""
DELETE FROM workers w WHERE ends_at IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM attempts t WHERE t.worker_id = w.id AND t.finished_at IS NULL)
""")


class Leased(msgspec.Struct, frozen=True):
    """A new lease: when its attempt started, and when the timeout of the attempt ends it.

    `waited` is as `Claim.waited`.
    """

    lease: Lease
    started_at: datetime
    ends_at: datetime
    waited: float | None


class LeaseHeartbeat(msgspec.Struct, frozen=True):
    """A heartbeat that was recorded, and whether the worker is asked to end its attempt."""

    at: datetime
    ends_at: datetime
    cancelled: bool


class LeasedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt as the ledger has it. `open`: it has not ended; `over_http`: no worker process runs it.

    `timeout` is in seconds.
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
    """Claim up to `limit` ready jobs of the tenant on `queue`, of these types (None: of any). The caller commits.

    Each job gets a worker row of its own, called `name`.
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
    return [
        Leased(Lease(row["id"], row["attempt"], row["worker_id"]), row["started_at"], row["ends_at"], row["waited"])
        for row in rows
    ]


async def find(conn: Connection, lease: Lease) -> LeasedAttempt | None:
    """The attempt of this lease, open or not; None if it never existed, or its job was pruned."""
    row = await _FIND.first(conn, **lease_values(lease))
    return None if row is None else _attempt(row)


async def overdue(conn: Connection, limit: int) -> list[LeasedAttempt]:
    """Up to `limit` open attempts past their timeout."""
    return [_attempt(row) for row in await _OVERDUE.rows(conn, limit=limit)]


async def heartbeat(conn: Connection, tenant: str, lease: Lease) -> LeaseHeartbeat | None:
    """Keep the lease for another `LEASE_TTL`; None if it does not hold. The caller commits."""
    row = await _HEARTBEAT.first(conn, tenant=tenant, **lease_values(lease))
    return None if row is None else struct(LeaseHeartbeat, row)


async def retire(conn: Connection, worker_ids: Sequence[UUID]) -> None:
    """Delete the workers of leases that have ended. The caller commits."""
    await _RETIRE.run(conn, ids=list(worker_ids))


async def retire_idle(conn: Connection) -> None:
    """Delete the workers of leases that others have ended, as the rescuer does. The caller commits."""
    await _RETIRE_IDLE.run(conn)


def _attempt(row: Row) -> LeasedAttempt:
    known = row["not_found"] in {*OnNotFound}  # else it is the flaw of a type (`accepted.storage.job_types`)
    not_found = OnNotFound(row["not_found"]) if known else OnNotFound.FAIL
    running = msgspec.structs.replace(running_attempt(row), not_found=not_found)
    plain = {name: row[name] for name in LeasedAttempt.__struct_fields__ if name != "running"}
    return LeasedAttempt(running=running, **plain)
