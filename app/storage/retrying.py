"""failed, cancelled or expired -> queued (or scheduled): only because somebody asked for it.

The attempt number goes on rising, which keeps every fence sound; the fresh budget is `max_attempts`, raised to the
attempt plus what the policy allows. The statement that resets the job also takes its dead letter away and writes its
outbox row, so a job is never both waiting and a dead letter, nor neither. Its batch waits for one end more.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.retry import Retry
from app.storage.changes import HINT
from app.storage.dead_letters import MATCHES, LetterFilter

_AGAIN = """
WITH chosen AS MATERIALIZED ({chosen}), cleared AS (
    DELETE FROM dead_letters d USING chosen c WHERE d.job_id = c.id RETURNING d.job_id
), moved AS (
    UPDATE jobs j SET
        status = CASE WHEN c.due_at > now() THEN 'scheduled' ELSE 'queued' END,
        max_attempts = j.attempt + COALESCE(
            CAST(j.retry->>'max_attempts' AS int4),
            (SELECT y.max_attempts FROM job_types y WHERE y.name = j.type),
            CAST(:default_attempts AS int4)
        ),
        crashes = 0, result = NULL, error = NULL, progress = NULL, finished_at = NULL, run_at = c.due_at,
        expires_at = CASE WHEN j.expires_at > c.due_at THEN j.expires_at END,
        retried_after = array_append(j.retried_after, j.attempt)
    FROM chosen c {condition}
    WHERE j.id = c.id AND j.status IN ('failed', 'cancelled', 'expired')
    RETURNING j.id, j.attempt, j.queue, j.priority, j.run_at, j.expires_at, j.concurrency_key, j.batch_id
), told AS MATERIALIZED (
    SELECT batch_id, count(*) AS members FROM moved WHERE batch_id IS NOT NULL GROUP BY batch_id
), locked AS MATERIALIZED (
    SELECT b.id FROM batches b JOIN told t ON t.batch_id = b.id ORDER BY b.id FOR UPDATE OF b
), opened AS (
    UPDATE batches b SET remaining = b.remaining + t.members, finished_at = NULL, counts = NULL
    FROM told t JOIN locked l ON l.id = t.batch_id WHERE b.id = t.batch_id
), waiting AS (
    INSERT INTO outbox (job_id, attempt, queue, priority, due_at, published, expires_at, concurrency_key)
    SELECT id, attempt, queue, priority, run_at, false, expires_at, concurrency_key FROM moved
)
SELECT id, {hint} FROM moved
"""
"""A deadline (`expires_at`) that lies before the new run would end the job unrun, so it falls away.

Jobs are locked before their letters, as by everybody who locks both.
"""

_ONE = """
    SELECT id, now() AS due_at FROM jobs
    WHERE id = :id AND tenant = :tenant AND attempt = :attempt AND status IN ('failed', 'cancelled', 'expired')
    FOR UPDATE
"""
_LETTERS = f"""
    SELECT id, CAST(:start AS timestamptz) + interval '1 second'
        * (CAST(:step AS float8) * (CAST(:offset AS int8) + row_number() OVER (ORDER BY id) - 1)) AS due_at
    FROM (
        SELECT j.id FROM dead_letters d JOIN jobs j ON j.id = d.job_id
        WHERE {MATCHES} AND d.failed_at <= :start AND j.status = 'failed'
        ORDER BY j.id LIMIT :most FOR UPDATE OF j SKIP LOCKED
    ) AS locked
"""
_IF_CLEARED = "JOIN cleared ON cleared.job_id = c.id"
_HINT = HINT.format(rows="moved")

_RETRY = text(_AGAIN.format(chosen=_ONE, condition="", hint=_HINT))
_REPLAY_ONE = text(_AGAIN.format(chosen=_ONE, condition=_IF_CLEARED, hint=_HINT))
_REPLAY = text(_AGAIN.format(chosen=_LETTERS, condition=_IF_CLEARED, hint=_HINT))

_EDIT = text("""
WITH kept AS (
    INSERT INTO payload_edits (job_id, attempt, payload_before, edited_by)
    SELECT id, attempt, payload, :edited_by FROM jobs WHERE id = :id
)
UPDATE jobs SET payload = CAST(:payload AS json) WHERE id = :id
""")

_EDITS = text("""
SELECT attempt, CAST(payload_before AS text), edited_at, edited_by FROM payload_edits WHERE job_id = :id
ORDER BY attempt
""")


class Edit(msgspec.Struct, frozen=True):
    """A payload that was replaced after `attempt`: what it was (JSON text), when, and who did it."""

    attempt: int
    payload_before: str
    edited_at: datetime
    edited_by: str


async def retry(conn: AsyncConnection, tenant: str, job_id: UUID, attempt: int) -> bool:
    """Run this job again, if it ended unsuccessfully with `attempt` and still is so. The caller commits."""
    return await _one(conn, _RETRY, tenant, job_id, attempt)


async def replay_one(conn: AsyncConnection, tenant: str, job_id: UUID, attempt: int) -> bool:
    """The same, and only if it is a dead letter. The caller commits."""
    return await _one(conn, _REPLAY_ONE, tenant, job_id, attempt)


async def replay(
    conn: AsyncConnection, tenant: str, wanted: LetterFilter, start: datetime, offset: int, step: float, most: int
) -> int:
    """Replay up to `most` letters that match and were there at `start`; passes over what others are at.

    The n-th of them runs at `start` plus (offset + n) times `step` seconds. The caller commits.
    """
    values = {"start": start, "offset": offset, "step": step, "most": most, "default_attempts": Retry().max_attempts}
    done = await conn.execute(_REPLAY, wanted.values(tenant) | values)
    return len(done.all())


async def edit(conn: AsyncConnection, job_id: UUID, payload: str, edited_by: str) -> None:
    """Replace the payload of a job that this transaction has locked, and keep the former one. The caller commits."""
    await conn.execute(_EDIT, {"id": job_id, "payload": payload, "edited_by": edited_by})


async def edits_of(conn: AsyncConnection, job_id: UUID) -> Sequence[Edit]:
    """Every payload that this job had before the present one, in order."""
    return [Edit(*row) for row in await conn.execute(_EDITS, {"id": job_id})]


async def _one(conn: AsyncConnection, statement: TextClause, tenant: str, job_id: UUID, attempt: int) -> bool:
    values = {"tenant": tenant, "id": job_id, "attempt": attempt, "default_attempts": Retry().max_attempts}
    return (await conn.execute(statement, values)).first() is not None
