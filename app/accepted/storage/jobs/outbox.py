"""The outbox: one row for each job that should be with a worker from `due_at` on. Claiming a job deletes its row.

`published`: RabbitMQ has confirmed the row's reference, or, where the ledger is the broker, the row is open to claims.
Until then `due_at` is also the moment from which the relay publishes it. So the process that publishes a row first
moves `due_at` on: if it dies, the row comes due again. Each row is found by its state, never by a cursor: ids and
sequence numbers do not commit in order. A row that is `held` does not wait for a moment (docs/waiting.md) but for room
on its queue, or, with `due_at` at infinity, for other jobs.
"""

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.references import JobRef
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.jobs.cancellation import CHANGE_COLUMNS, StatusChange
from accepted.storage.queues import LIMITED, NOTIFY

_TAKE_DUE = Statement(f"""
WITH due AS MATERIALIZED (
    SELECT job_id, NOT admitted AND queue = ANY({LIMITED}) AS waits
    FROM outbox WHERE NOT published AND NOT held AND due_at <= now()
    ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
), taken AS MATERIALIZED (
    UPDATE outbox o SET
        held = due.waits,
        due_at = CASE WHEN due.waits THEN o.due_at ELSE now() + CAST(:hold AS float8) * interval '1 second' END
    FROM due WHERE o.job_id = due.job_id AND o.job_id = ANY(ARRAY(SELECT job_id FROM due))
    RETURNING o.job_id, o.attempt, o.queue, o.priority, o.held
), promoted AS (
    UPDATE jobs SET status = 'queued'
    WHERE id = ANY(ARRAY(SELECT job_id FROM due)) AND status IN ('scheduled', 'retrying')
    RETURNING id
)
SELECT t.job_id, t.attempt, t.queue, j.type, t.priority, j.traceparent, promoted.id IS NOT NULL,
       CASE WHEN t.held THEN {NOTIFY} ELSE false END
FROM jobs j JOIN taken t ON t.job_id = j.id LEFT JOIN promoted ON promoted.id = j.id
WHERE j.id = ANY(ARRAY(SELECT job_id FROM due))
""")
"""The ids go round as arrays, which have PostgreSQL look each up by the index. A join it may plan as a scan of all that
waits: with 100,000 jobs in tables not analyzed yet, as after a large batch, a round of 400 took half a second."""

_MARK_PUBLISHED = Statement("""
WITH sent AS MATERIALIZED (
    SELECT o.job_id FROM outbox o
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int4[])) AS w(job_id, attempt) USING (job_id, attempt)
    WHERE NOT o.held ORDER BY o.job_id FOR UPDATE OF o
)
UPDATE outbox o SET published = true, due_at = now() FROM sent WHERE o.job_id = sent.job_id
""")

_NEXT_DUE = Statement(
    "SELECT CAST(EXTRACT(epoch FROM due_at - now()) AS float8) FROM outbox "
    "WHERE NOT published AND NOT held ORDER BY due_at LIMIT 1"
)

_UNCLAIMED = text("""
SELECT queue, count(*) FROM outbox
WHERE published AND due_at < now() - CAST(:older_than AS float8) * interval '1 second' GROUP BY queue
""")

_ANY_LEFT = Statement("""
SELECT EXISTS (
    SELECT FROM outbox
    WHERE published AND queue = ANY(CAST(:queues AS text[]))
      AND due_at < now() - CAST(:older_than AS float8) * interval '1 second'
)
""")

_LEASED = text("""
SELECT q.name, (SELECT count(*) FROM outbox o WHERE o.queue = q.name AND o.published)
FROM (
    SELECT queue FROM job_types WHERE external
    UNION SELECT unnest(queues) FROM workers WHERE ends_at IS NOT NULL
) AS q(name)
""")

_PUBLISH_AGAIN = text("""
WITH lost AS MATERIALIZED (
    SELECT job_id FROM outbox
    WHERE published AND queue = :queue AND due_at < now() - CAST(:older_than AS float8) * interval '1 second'
    ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE outbox o SET published = false, due_at = now() FROM lost WHERE o.job_id = lost.job_id
""")

_ANY_LATE = Statement("SELECT EXISTS (SELECT FROM outbox WHERE expires_at <= now())")

_EXPIRE = text(f"""
WITH late AS MATERIALIZED (
    SELECT job_id, attempt FROM outbox WHERE expires_at <= now()
    ORDER BY job_id LIMIT :limit FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM outbox o USING late WHERE o.job_id = late.job_id
)
UPDATE jobs j SET status = 'expired', finished_at = now(),
    error = json_build_object('class', 'expired', 'message', 'not started by expires_at', 'attempt', j.attempt)
FROM late
WHERE j.id = late.job_id AND j.attempt = late.attempt AND j.status IN ('scheduled', 'blocked', 'queued', 'retrying')
RETURNING {CHANGE_COLUMNS}
""")


async def take_due(conn: Connection, limit: int, hold: float) -> tuple[list[JobRef], list[UUID]]:
    """Up to `limit` rows that are due, ours for `hold` seconds; and the jobs that became `queued` by it.

    Rows of limited queues are not taken but held, until the limiter admits them.
    """
    rows = await _TAKE_DUE.rows(conn, limit=limit, hold=hold)
    return [JobRef(*row[:6]) for row in rows if not row[7]], [row[0] for row in rows if row[6]]


async def mark_published(conn: Connection, refs: Iterable[JobRef]) -> None:
    """Mark these as published. A row that was claimed meanwhile stays gone; one that is held stays held."""
    sent = list(refs)
    await _MARK_PUBLISHED.rows(conn, ids=[r.job_id for r in sent], attempts=[r.attempt for r in sent])


async def next_due(conn: Connection) -> float | None:
    """Seconds until the next unpublished row is due (negative: it is), None when there is none."""
    found = await _NEXT_DUE.rows(conn)
    return float(found[0][0]) if found else None


async def unclaimed(conn: AsyncConnection, older_than: float) -> dict[str, int]:
    """By queue, how many rows were published more than `older_than` seconds ago and not claimed since."""
    return {row[0]: row[1] for row in await conn.execute(_UNCLAIMED, {"older_than": older_than})}


async def any_left(conn: Connection, queues: list[str], older_than: float) -> bool:
    """Whether something of these queues was published more than `older_than` seconds ago and not claimed since."""
    ((found,),) = await _ANY_LEFT.rows(conn, queues=queues, older_than=older_than)
    return bool(found)


async def leased(conn: AsyncConnection) -> dict[str, int]:
    """Queues whose jobs are leased over HTTP, past the broker, with the number of published rows of each."""
    return {row[0]: row[1] for row in await conn.execute(_LEASED)}


async def publish_again(conn: AsyncConnection, queue: str, older_than: float, limit: int) -> int:
    """Give the relay the oldest `limit` of those rows once more. Returns how many."""
    done = await conn.execute(_PUBLISH_AGAIN, {"queue": queue, "older_than": older_than, "limit": limit})
    return int(done.rowcount)


async def any_late(conn: Connection) -> bool:
    """Whether a job that waits is past its `expires_at`."""
    ((found,),) = await _ANY_LATE.rows(conn)
    return bool(found)


async def expire(conn: AsyncConnection, limit: int) -> list[StatusChange]:
    """waiting -> expired, for up to `limit` jobs that were not started in time."""
    return [StatusChange(*row) for row in await conn.execute(_EXPIRE, {"limit": limit})]
