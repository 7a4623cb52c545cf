"""The outbox: one row for each job that should be with a worker from `due_at` on. Claiming a job deletes its row.

`published`: RabbitMQ has confirmed the row's reference, or, where the ledger is the broker, the row is open to claims.
Until then `due_at` is also the moment from which the relay publishes it. So the process that publishes a row first
moves `due_at` on: if it dies, the row comes due again. Each row is found by its state, never by a cursor: ids and
sequence numbers do not commit in order. A row `on_hold` does not wait for a moment (docs/waiting.md) but for room on
its queue, or, with `due_at` at infinity, for other jobs.

`unserved` is empty until a worker without a handler for the job's type has set the row aside; then it is the type
(`accepted.storage.attempts.claims`). A published row that was set aside has no reference on the broker.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.references import JobRef
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.holding import ORDERED
from accepted.storage.jobs.cancellation import CHANGE_COLUMNS, StatusChange, status_change
from accepted.storage.queue_tenants import MADE_LIMITED
from accepted.storage.queues import LIMITED, NOTIFY_LIMITER

HOLD = 10.0
"""Seconds for which a process that takes rows publishes them: twice the publish deadline. If it dies, they come due
again."""

_WAITS = f"NOT o.admitted AND (o.queue = ANY({LIMITED}) OR {ORDERED})"
"""A row that asks for an order waits on any queue: its own may have become plain while it was not due."""

_UNPUBLISHED = "NOT published AND NOT on_hold AND due_at >= COALESCE(CAST(:since AS timestamptz), '-infinity')"
"""`since` spares a search the index entries of rows that are gone, which stay while anybody's transaction could see
them."""

_TAKE_DUE = Statement(f"""
WITH due AS MATERIALIZED (
    SELECT job_id FROM outbox WHERE {_UNPUBLISHED} AND due_at <= now()
    ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
), taken AS MATERIALIZED (
    UPDATE outbox o SET
        on_hold = {_WAITS},
        due_at = CASE WHEN {_WAITS} THEN due_at ELSE now() + CAST(:hold AS float8) * interval '1 second' END
    WHERE job_id = ANY(ARRAY(SELECT job_id FROM due))
    RETURNING job_id, attempt, queue, priority, on_hold
), made_limited AS (
    INSERT INTO queues (name, limited, limited_at)
    SELECT DISTINCT queue, true, now() FROM taken WHERE on_hold AND queue <> ALL({LIMITED}) ORDER BY queue
    ON CONFLICT (name) DO UPDATE SET {MADE_LIMITED}
), promoted AS MATERIALIZED (
    UPDATE jobs SET status = 'queued'
    WHERE id = ANY(ARRAY(SELECT job_id FROM due)) AND status IN ('scheduled', 'retrying')
    RETURNING id
), known AS MATERIALIZED (
    SELECT id, type, traceparent FROM jobs WHERE id = ANY(ARRAY(SELECT job_id FROM due))
)
SELECT t.job_id, t.attempt, t.queue, j.type, t.priority, j.traceparent, promoted.id IS NOT NULL AS promoted,
       CASE WHEN t.on_hold THEN {NOTIFY_LIMITER} ELSE false END AS on_hold
FROM known j JOIN taken t ON t.job_id = j.id LEFT JOIN promoted ON promoted.id = j.id
""")
"""One statement, because a row must not be taken without its job being queued. No table stands in a join: the plan may
be from a time when the tables were empty, and would then read all waiting rows once for each row that is taken (500 of
them took seconds). So each table is read once, by an array of ids, and only what was found is joined.
"""

_MARK_PUBLISHED = Statement("""
WITH sent AS MATERIALIZED (
    SELECT job_id, attempt FROM outbox WHERE job_id = ANY(CAST(:ids AS uuid[])) AND NOT on_hold
    ORDER BY job_id FOR UPDATE
), same AS MATERIALIZED (
    SELECT job_id FROM sent
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int4[])) AS w(job_id, attempt) USING (job_id, attempt)
)
UPDATE outbox SET published = true, due_at = now() WHERE job_id = ANY(ARRAY(SELECT job_id FROM same))
""")

_NEXT_DUE = Statement(f"""
SELECT now() AS now, (
    SELECT due_at FROM outbox
    WHERE {_UNPUBLISHED} AND due_at < now() + CAST(:within AS float8) * interval '1 second'
    ORDER BY due_at LIMIT 1
) AS due_at
""")

_UNCLAIMED = Statement("""
SELECT queue, count(*) AS rows FROM outbox
WHERE published AND unserved = '' AND due_at < now() - CAST(:older_than AS float8) * interval '1 second'
GROUP BY queue
""")

_ANY_LEFT = Statement("""
SELECT EXISTS (
    SELECT FROM outbox
    WHERE published AND unserved = '' AND queue = ANY(CAST(:queues AS text[]))
      AND due_at < now() - CAST(:older_than AS float8) * interval '1 second'
)
""")

_LEASED = Statement("""
SELECT q.name AS queue,
       (SELECT count(*) FROM outbox o WHERE o.queue = q.name AND o.published AND o.unserved = '') AS rows
FROM (
    SELECT queue FROM job_types WHERE external
    UNION SELECT unnest(queues) FROM workers WHERE ends_at IS NOT NULL
) AS q(name)
""")

_PUBLISH_AGAIN = Statement("""
WITH lost AS MATERIALIZED (
    SELECT job_id FROM outbox
    WHERE published AND unserved = '' AND queue = :queue
      AND due_at < now() - CAST(:older_than AS float8) * interval '1 second'
    ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE outbox o SET published = false, due_at = now() FROM lost WHERE o.job_id = lost.job_id
""")

_ANY_LATE = Statement("SELECT EXISTS (SELECT FROM outbox WHERE expires_at <= now())")

_LATE = Statement("""
SELECT job_id FROM outbox WHERE expires_at <= now() AND job_id <> ALL(CAST(:leave_out AS uuid[])) ORDER BY job_id
LIMIT :limit FOR UPDATE SKIP LOCKED
""")

_EXPIRE = Statement(f"""
WITH late AS MATERIALIZED (
    SELECT job_id, attempt FROM outbox WHERE expires_at <= now() AND job_id = ANY(CAST(:ids AS uuid[]))
    ORDER BY job_id FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM outbox o USING late WHERE o.job_id = late.job_id
)
UPDATE jobs j SET status = 'expired', finished_at = now(),
    error = json_build_object('class', 'expired', 'message', 'not started by expires_at', 'attempt', j.attempt)
FROM late
WHERE j.id = late.job_id AND j.attempt = late.attempt AND j.status IN ('scheduled', 'blocked', 'queued', 'retrying')
RETURNING {CHANGE_COLUMNS}
""")


async def take_due(
    conn: Connection, limit: int, hold: float, since: datetime | None = None
) -> tuple[list[JobRef], list[UUID]]:
    """Take up to `limit` rows that came due, after `since`, for `hold` seconds. Returns their references, and the jobs
    that became `queued`.

    Due rows of limited queues are put on hold instead, until the limiter admits them. The caller commits.
    """
    rows = await _TAKE_DUE.rows(conn, limit=limit, hold=hold, since=since)
    refs = [struct(JobRef, row) for row in rows if not row["on_hold"]]
    return refs, [row["job_id"] for row in rows if row["promoted"]]


async def mark_published(conn: Connection, refs: Iterable[JobRef]) -> None:
    """Mark these rows as published, unless they were claimed or put on hold meanwhile. The caller commits."""
    sent = list(refs)
    await _MARK_PUBLISHED.run(conn, ids=[r.job_id for r in sent], attempts=[r.attempt for r in sent])


class NextDue(msgspec.Struct, frozen=True):
    """When the next unpublished row is due, None if that is late enough; and the ledger's time."""

    due_at: datetime | None
    now: datetime


async def next_due(conn: Connection, since: datetime | None, within: float) -> NextDue:
    """The first row that is due after `since` (None: ever) and within the next so many seconds."""
    (row,) = await _NEXT_DUE.rows(conn, since=since, within=within)
    return struct(NextDue, row)


async def unclaimed(conn: Connection, older_than: float) -> dict[str, int]:
    """By queue, how many rows were published more than `older_than` seconds ago and not claimed since."""
    return {row["queue"]: row["rows"] for row in await _UNCLAIMED.rows(conn, older_than=older_than)}


async def any_left(conn: Connection, queues: list[str], older_than: float) -> bool:
    """Whether a row of these queues was published more than `older_than` seconds ago and not claimed since."""
    return bool(await _ANY_LEFT.value(conn, queues=queues, older_than=older_than))


async def leased(conn: Connection) -> dict[str, int]:
    """Queues whose jobs are leased over HTTP, past the broker, with the number of published rows of each."""
    return {row["queue"]: row["rows"] for row in await _LEASED.rows(conn)}


async def publish_again(conn: Connection, queue: str, older_than: float, limit: int) -> int:
    """Let the relay publish the oldest `limit` unclaimed rows again, and return how many. The caller commits."""
    return await _PUBLISH_AGAIN.count(conn, queue=queue, older_than=older_than, limit=limit)


async def any_late(conn: Connection) -> bool:
    """Whether a waiting job is past its `expires_at`."""
    return bool(await _ANY_LATE.value(conn))


async def late(conn: Connection, limit: int, leave_out: Sequence[UUID]) -> list[UUID]:
    """Up to `limit` waiting jobs past their `expires_at`, in id order; not locked ones, and none of `leave_out`."""
    return await _LATE.values(conn, limit=limit, leave_out=list(leave_out))


async def expire(conn: Connection, ids: Sequence[UUID]) -> list[StatusChange]:
    """waiting -> expired, for those of these jobs that are past their `expires_at`. The caller commits."""
    return [status_change(row) for row in await _EXPIRE.rows(conn, ids=list(ids))]
