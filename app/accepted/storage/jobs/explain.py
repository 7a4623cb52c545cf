"""What could hold one job, read for `GET /jobs/{id}/explain`. Each query reads at most the rows that wait on one
queue; none reads finished jobs.

The row of the job decides what it waits for; the rest, which adds detail, is read just after it, in separate
statements. Other tenants' jobs are counted, never named.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.snapshot import Holder, Load, Needed, QueueLimits, QueuePosition, WorkerCapacity
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.workers import ALIVE, SERVES

NEEDED_LIMIT = 20
"""Needed jobs that an explanation names; it also says how many there are."""

_JOB = Statement(f"""
SELECT j.tenant, now() AS now, j.status, j.type, j.queue, j.attempt, j.max_attempts, j.run_at, j.finished_at,
       CAST(j.error AS text) AS error, j.blockers, j.concurrency_key, j.ordering_key,
       CASE WHEN j.type = ANY(CAST(:calling AS text[])) THEN j.payload->>'url' END AS calls,
       CASE WHEN isfinite(o.due_at) THEN o.due_at END AS due_at,
       COALESCE(o.published, false) AS published, COALESCE(o.on_hold, false) AS on_hold,
       COALESCE(o.admitted, false) AS admitted,
       COALESCE(w.name, CAST(t.worker_id AS text)) AS worker, t.started_at AS since, w.heartbeat_at AS heard_at,
       COALESCE({ALIVE}, false) AS alive, t.cancel_requested_at IS NOT NULL AS cancel_requested,
       COALESCE(q.paused, false) AS paused, q.max_running, q.rate_jobs, q.rate_per, q.max_running_per_key,
       q.last_start + q.rate_per / q.rate_jobs * interval '1 second' AS next_start,
       COALESCE(y.external, false) AS external,
       COALESCE(q.limited, false) OR COALESCE(o.on_hold, false) AS limited
FROM jobs j
LEFT JOIN outbox o ON o.job_id = j.id
LEFT JOIN attempts t ON t.job_id = j.id AND t.attempt = j.attempt AND t.finished_at IS NULL
LEFT JOIN workers w ON w.id = t.worker_id
LEFT JOIN queues q ON q.name = j.queue
LEFT JOIN job_types y ON y.name = j.type
WHERE j.id = :id
""")

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

_LOAD = Statement("""
SELECT count(*) AS running, count(*) FILTER (WHERE key = CAST(:key AS text)) AS of_key FROM (
    SELECT j.concurrency_key AS key
    FROM attempts t CROSS JOIN LATERAL (SELECT queue, concurrency_key FROM jobs WHERE id = t.job_id OFFSET 0) AS j
    WHERE t.finished_at IS NULL AND j.queue = :queue
    UNION ALL
    SELECT concurrency_key FROM outbox WHERE admitted AND queue = :queue
) AS taken
""")

_POSITION_AMONG_PUBLISHED = Statement("""
SELECT count(*) AS ahead, 0 AS of_key FROM outbox
WHERE queue = :queue AND published
  AND (priority > :priority OR (priority = :priority AND (due_at, job_id) < (CAST(:due_at AS timestamptz), :id)))
""")

_POSITION_ON_A_LIMITED_QUEUE = Statement("""
WITH line AS MATERIALIZED (
    SELECT job_id, row_number() OVER (PARTITION BY concurrency_key ORDER BY priority DESC, due_at, job_id) AS number
    FROM outbox WHERE queue = :queue AND (on_hold OR (published AND NOT admitted)) AND due_at < 'infinity'
), mine AS (
    SELECT number FROM line WHERE job_id = :id
)
SELECT (SELECT count(*) FROM line WHERE number < mine.number)
           + (SELECT count(*) FROM outbox WHERE admitted AND queue = :queue) AS ahead,
       mine.number - 1 AS of_key
FROM mine
""")
"""Keys take turns: at most n - 1 jobs of every other key go before the n-th job of a key. A row that was published
before its queue became limited counts as waiting, because the limiter is about to put it on hold."""

_TARGET = Statement("""
SELECT deferred_until, reason, failures FROM targets WHERE tenant = :tenant AND host = :host AND deferred_until > now()
""")


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """The job with its outbox row, its open attempt and its queue. `calls` is the URL that it would call."""

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
    published: bool
    on_hold: bool
    admitted: bool
    holder: Holder | None
    limits: QueueLimits
    external: bool
    limited: bool


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


async def load(conn: Connection, queue: str, key: str | None) -> Load:
    """How many jobs of the queue run or are admitted, in all and of the concurrency key `key`."""
    (found,) = await _LOAD.rows(conn, queue=queue, key=key)
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


async def target(conn: Connection, tenant: str, host: str) -> tuple[datetime, str, int] | None:
    """Until when nothing is sent to this host, the class of its last failure, and how many there were in a row."""
    found = await _TARGET.first(conn, tenant=tenant, host=host)
    return None if found is None else (found["deferred_until"], found["reason"], found["failures"])
