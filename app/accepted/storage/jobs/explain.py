"""What could hold one job, read for `GET /jobs/{id}/explain`. Each query reads at most the rows that wait on one
queue; none reads finished jobs.

The row of the job decides what it waits for; the rest, which adds detail, is read just after it, in separate
statements. Other tenants' jobs are counted, never named.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.job import WEBHOOK_QUEUE
from accepted.domain.snapshot import Holder, Load, Needed, QueueLimits, QueuePosition, WorkerCapacity
from accepted.domain.transitions import DEFERRED
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.queue_tenants import SHARED
from accepted.storage.targets import DEFERRED_FOR
from accepted.storage.workers import ALIVE, SERVES, type_of

NEEDED_LIMIT = 20
"""Needed jobs that an explanation names; it also says how many there are."""

WAITING_LIMIT = 100_000
"""Jobs that wait for a target are counted up to here."""

_JOB = Statement(f"""
SELECT j.tenant, now() AS now, j.status, j.type, j.queue, j.attempt, j.max_attempts, j.run_at, j.finished_at,
       CAST(j.error AS text) AS error, j.blockers, j.concurrency_key, j.ordering_key,
       CASE WHEN j.type = ANY(CAST(:calling AS text[])) THEN j.payload->>'url' END AS calls,
       CASE WHEN isfinite(o.due_at) THEN o.due_at END AS due_at,
       LEAST(o.due_at, GREATEST(j.run_at, e.finished_at)) AS due_since,
       CASE WHEN e.outcome = '{DEFERRED}' THEN e.target END AS deferred_for,
       COALESCE(o.published, false) AS published, COALESCE(o.on_hold, false) AS on_hold,
       COALESCE(o.admitted, false) AS admitted,
       COALESCE(w.name, CAST(t.worker_id AS text)) AS worker, t.started_at AS since, w.heartbeat_at AS heard_at,
       COALESCE({ALIVE}, false) AS alive, t.cancel_requested_at IS NOT NULL AS cancel_requested,
       COALESCE(q.paused, false) AS paused, q.max_running, q.rate_jobs, q.rate_per, q.max_running_per_key,
       q.last_start + q.rate_per / NULLIF(q.rate_jobs, 0) * interval '1 second' AS next_start,
       COALESCE(y.external, false) AS external, {SHARED.format(queue="j.queue")} AS shared,
       CASE WHEN j.queue <> '{WEBHOOK_QUEUE}' THEN s.max_running END AS most_of_tenant,
       COALESCE(q.limited, false) OR COALESCE(o.on_hold, false) AS limited
FROM jobs j
LEFT JOIN outbox o ON o.job_id = j.id
LEFT JOIN attempts t ON t.job_id = j.id AND t.attempt = j.attempt AND t.finished_at IS NULL
LEFT JOIN attempts e ON e.job_id = j.id AND e.attempt = j.attempt AND e.finished_at IS NOT NULL
LEFT JOIN workers w ON w.id = t.worker_id
LEFT JOIN queues q ON q.name = j.queue
LEFT JOIN {type_of("j")} ON true
LEFT JOIN tenant_shares s ON s.tenant = j.tenant
WHERE j.id = :id
""")
"""`due_since` is when it became due. The relay moves `due_at` ahead each time it takes the row."""

_NEEDS = Statement("""
SELECT d.needs AS id, n.status, d.on_success
FROM dependencies d LEFT JOIN jobs n ON n.id = d.needs
WHERE d.job_id = :id AND (n.status IS NULL OR d.broken OR n.finished_at IS NULL)
ORDER BY d.broken DESC, d.needs LIMIT :limit
""")

_WORKER_CAPACITY = Statement(f"""
WITH serving AS MATERIALIZED (
    SELECT w.id, w.slots, w.types IS NULL OR CAST(:type AS text) = ANY(w.types) AS able
    FROM workers w WHERE {ALIVE} AND {SERVES} AND (w.tenant IS NULL OR w.tenant = CAST(:tenant AS text))
)
SELECT count(*) AS for_queue, count(*) FILTER (WHERE able) AS for_type,
       COALESCE(sum(slots) FILTER (WHERE able), 0) AS slots,
       (SELECT count(*) FROM attempts t JOIN serving s ON s.id = t.worker_id AND s.able
        WHERE t.finished_at IS NULL) AS busy
FROM serving
""")

_LOAD = Statement(f"""
SELECT count(*) FILTER (WHERE here) AS running, count(*) FILTER (WHERE here AND tenant = :tenant) AS of_tenant,
       count(*) FILTER (WHERE here AND tenant = :tenant AND key = CAST(:key AS text)) AS of_key,
       count(*) FILTER (WHERE tenant = :tenant AND queue <> '{WEBHOOK_QUEUE}') AS everywhere
FROM (
    SELECT j.tenant, j.queue, j.queue = :queue AS here, j.concurrency_key AS key
    FROM attempts t CROSS JOIN LATERAL (
        SELECT tenant, queue, concurrency_key FROM jobs WHERE id = t.job_id OFFSET 0
    ) AS j WHERE t.finished_at IS NULL
    UNION ALL
    SELECT tenant, queue, queue = :queue, concurrency_key FROM outbox WHERE admitted
) AS taken
""")

_POSITION_AMONG_PUBLISHED = Statement("""
SELECT count(*) AS ahead, 0 AS of_key FROM (
    SELECT FROM outbox WHERE queue = :queue AND published AND unserved = '' AND priority > :priority
    UNION ALL
    SELECT FROM outbox WHERE queue = :queue AND published AND unserved = '' AND priority = :priority
      AND due_at <= CAST(:due_at AS timestamptz) AND (due_at, job_id) < (CAST(:due_at AS timestamptz), :id)
) AS first
""")
"""Two ranges of an index, so that jobs that go later are not read."""

_POSITION_ON_A_LIMITED_QUEUE = Statement("""
WITH line AS MATERIALIZED (
    SELECT job_id, row_number() OVER (PARTITION BY tenant ORDER BY of_key, priority DESC, due_at, job_id) AS number,
           rank() OVER (PARTITION BY tenant ORDER BY of_key) AS turn, of_key
    FROM (
        SELECT job_id, tenant, priority, due_at, row_number() OVER (
            PARTITION BY tenant, concurrency_key ORDER BY priority DESC, due_at, job_id
        ) AS of_key
        FROM outbox WHERE queue = :queue AND (on_hold OR (published AND NOT admitted)) AND due_at < 'infinity'
          AND (unserved = '' OR job_id = :id)
    ) AS keyed
), mine AS (
    SELECT turn, of_key FROM line WHERE job_id = :id
)
SELECT (SELECT count(*) FROM line WHERE number < mine.turn)
           + (SELECT count(*) FROM outbox WHERE admitted AND queue = :queue) AS ahead,
       mine.of_key - 1 AS of_key
FROM mine
""")
"""Tenants take turns, and the keys of a tenant: at most n - 1 jobs of every other tenant go before the n-th job of one.
A row that was published before its queue became limited counts as waiting, because the limiter is about to put it on
hold."""

_TARGET = Statement(f"""
SELECT t.deferred_until, t.reason, t.failures, (SELECT count(*) FROM (
    {DEFERRED_FOR.format(columns="o.job_id")} AND o.due_at > now() LIMIT {WAITING_LIMIT}
) AS waiting) AS waiting
FROM (SELECT) AS one LEFT JOIN targets t ON t.tenant = :tenant AND t.host = :host AND t.deferred_until > now()
""")


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """The job with its outbox row, its attempts and its queue.

    `calls` is the URL that it would call, `deferred_for` the target for which its last attempt was deferred.
    """

    tenant: str
    now: datetime
    status: str
    type: str
    queue: str
    attempt: int
    max_attempts: int
    run_at: datetime
    finished_at: datetime | None
    error: str | None
    blockers: int
    concurrency_key: str | None
    ordering_key: str | None
    calls: str | None
    due_at: datetime | None
    due_since: datetime | None
    deferred_for: str | None
    published: bool
    on_hold: bool
    admitted: bool
    holder: Holder | None
    limits: QueueLimits
    external: bool
    limited: bool


class TargetState(msgspec.Struct, frozen=True):
    """Until when nothing is sent to a host (None: it is called), why, and how many jobs wait for it."""

    deferred_until: datetime | None
    reason: str | None
    failures: int | None
    waiting: int


async def row(conn: Connection, job_id: UUID, lease_ttl: float, calling: Sequence[str]) -> JobRow | None:
    """The job, of any tenant: the caller compares. `calls` is set for the types in `calling` only."""
    found = await _JOB.first(conn, id=job_id, lease_ttl=float(lease_ttl), calling=list(calling))
    if found is None:
        return None
    holder = None if found["since"] is None else struct(Holder, found)
    plain = {name: found[name] for name in JobRow.__struct_fields__ if name not in {"holder", "limits"}}
    return JobRow(**plain, holder=holder, limits=struct(QueueLimits, found))


async def needs(conn: Connection, job_id: UUID) -> tuple[Needed, ...]:
    """The first `NEEDED_LIMIT` jobs that this one waits for."""
    return tuple(struct(Needed, each) for each in await _NEEDS.rows(conn, id=job_id, limit=NEEDED_LIMIT))


async def worker_capacity(conn: Connection, tenant: str, queue: str, type_: str, lease_ttl: float) -> WorkerCapacity:
    """The live workers that could run a job of this type on this queue."""
    (found,) = await _WORKER_CAPACITY.rows(conn, tenant=tenant, queue=queue, type=type_, lease_ttl=float(lease_ttl))
    return struct(WorkerCapacity, found)


async def load(conn: Connection, tenant: str, queue: str, key: str | None) -> Load:
    """How many jobs of the queue run or are admitted, in all, of the tenant, and of its concurrency key `key`."""
    (found,) = await _LOAD.rows(conn, tenant=tenant, queue=queue, key=key)
    return struct(Load, found)


async def position(
    conn: Connection, job_id: UUID, queue: str, priority: int, due_at: datetime, limited: bool
) -> QueuePosition:
    """How many jobs of the queue go first."""
    if limited:
        found = await _POSITION_ON_A_LIMITED_QUEUE.first(conn, id=job_id, queue=queue)
    else:
        found = await _POSITION_AMONG_PUBLISHED.first(conn, id=job_id, queue=queue, priority=priority, due_at=due_at)
    return QueuePosition() if found is None else struct(QueuePosition, found)


async def target(conn: Connection, tenant: str, host: str) -> TargetState:
    """What holds the jobs for this host now, and how many were deferred because of it and wait."""
    (found,) = await _TARGET.rows(conn, tenant=tenant, host=host)
    return struct(TargetState, found)
