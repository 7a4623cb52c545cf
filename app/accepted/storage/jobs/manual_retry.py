"""failed, cancelled or expired -> queued (or scheduled): only because somebody asked for it.

The attempt number goes on rising, which keeps every fence sound; the fresh budget is `max_attempts`, raised to the
attempt plus what the policy allows. Jobs are chosen and locked, then their dead letters go, then they are reset and get
their outbox rows: in one transaction, so a job is never both waiting and a dead letter, nor neither. Its batch waits
for one end more. What waits for other jobs (`accepted.storage.jobs.workflow_repair` has seen to its edges by then) is
blocked again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.job import WEBHOOK_TYPE
from accepted.domain.retry import Retry
from accepted.storage.db.notifications import ANNOUNCE
from accepted.storage.dead_letters import MATCHES, LetterFilter

_AGAIN = text(f"""
WITH chosen AS MATERIALIZED (
    SELECT c.id, c.due_at, (
        SELECT count(*) FROM dependencies d LEFT JOIN jobs n ON n.id = d.needs
        WHERE d.job_id = c.id AND (NOT d.on_success OR n.status <> 'succeeded')
    ) AS unmet
    FROM unnest(CAST(:ids AS uuid[]), CAST(:due_ats AS timestamptz[])) AS c(id, due_at)
), moved AS (
    UPDATE jobs j SET
        status = CASE WHEN c.unmet > 0 THEN 'blocked' WHEN c.due_at > now() THEN 'scheduled' ELSE 'queued' END,
        blockers = c.unmet,
        max_attempts = j.attempt + COALESCE(
            CAST(j.retry->>'max_attempts' AS int4),
            (SELECT y.max_attempts FROM job_types y WHERE y.name = j.type),
            CAST(:default_attempts AS int4)
        ),
        crashes = 0, result = NULL, error = NULL, progress = NULL, finished_at = NULL, run_at = c.due_at,
        expires_at = CASE WHEN j.expires_at > GREATEST(c.due_at, now()) THEN j.expires_at END,
        retried_after = array_append(j.retried_after, j.attempt)
    FROM chosen c
    WHERE j.id = c.id AND j.status IN ('failed', 'cancelled', 'expired')
    RETURNING j.id, j.attempt, j.queue, j.priority, j.run_at, j.expires_at, j.concurrency_key, j.batch_id,
              j.status = 'blocked' AS blocked, j.tenant, j.type, j.payload
), told AS MATERIALIZED (
    SELECT batch_id, count(*) AS members FROM moved WHERE batch_id IS NOT NULL GROUP BY batch_id
), locked AS MATERIALIZED (
    SELECT b.id FROM batches b JOIN told t ON t.batch_id = b.id ORDER BY b.id FOR UPDATE OF b
), opened AS (
    UPDATE batches b SET remaining = b.remaining + t.members, finished_at = NULL, counts = NULL
    FROM told t JOIN locked l ON l.id = t.batch_id WHERE b.id = t.batch_id
), tried_again AS (
    DELETE FROM webhook_urls u USING moved m
    WHERE m.type = '{WEBHOOK_TYPE}' AND u.tenant = m.tenant AND u.url = m.payload->>'url'
), waiting AS (
    INSERT INTO outbox (job_id, attempt, queue, priority, due_at, published, held, expires_at, concurrency_key)
    SELECT id, attempt, queue, priority, CASE WHEN blocked THEN 'infinity' ELSE run_at END, false, blocked, expires_at,
           concurrency_key FROM moved
)
SELECT id, {ANNOUNCE.format(rows="moved")} FROM moved
""")
"""A deadline (`expires_at`) that lies before the new run would end the job unrun, so it falls away. A new run is not
before now, though the `due_at` of a job that was put back behind another may be long past.

A webhook that is sent again has its URL, given up or about to be, tried for another five days.
"""

_CHOOSE = text("""
SELECT id, now(), has_dependents FROM jobs
WHERE id = :id AND tenant = :tenant AND attempt = :attempt AND status IN ('failed', 'cancelled', 'expired')
FOR UPDATE
""")

_CHOOSE_LETTERS = text(f"""
SELECT id, CAST(:start AS timestamptz) + interval '1 second'
    * (CAST(:step AS float8) * (CAST(:offset AS int8) + row_number() OVER (ORDER BY id) - 1)), has_dependents
FROM (
    SELECT j.id, j.has_dependents FROM dead_letters d JOIN jobs j ON j.id = d.job_id
    WHERE {MATCHES} AND d.failed_at <= :start AND j.status = 'failed'
    ORDER BY j.id LIMIT :limit FOR UPDATE OF j SKIP LOCKED
) AS locked
""")
"""Jobs are locked before their letters, as by everybody who locks both."""

_CLEAR = text("DELETE FROM dead_letters WHERE job_id = ANY(CAST(:ids AS uuid[])) RETURNING job_id")

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


class Chosen(NamedTuple):
    """A job that is to run again, and when. `has_dependents`: others wait for it, or did."""

    id: UUID
    due_at: datetime
    has_dependents: bool


async def choose(conn: AsyncConnection, tenant: str, job_id: UUID, attempt: int) -> list[Chosen]:
    """This job, locked, if it ended unsuccessfully with `attempt` and still is so."""
    values = {"tenant": tenant, "id": job_id, "attempt": attempt}
    return [Chosen(*row) for row in await conn.execute(_CHOOSE, values)]


async def choose_letters(
    conn: AsyncConnection, tenant: str, wanted: LetterFilter, start: datetime, offset: int, step: float, limit: int
) -> list[Chosen]:
    """The jobs of up to `limit` letters that match and were there at `start`, locked; passes over what others are at.

    The n-th of them runs at `start` plus (offset + n) times `step` seconds.
    """
    values = {"start": start, "offset": offset, "step": step, "limit": limit}
    return [Chosen(*row) for row in await conn.execute(_CHOOSE_LETTERS, wanted.values(tenant) | values)]


async def clear(conn: AsyncConnection, ids: Sequence[UUID]) -> set[UUID]:
    """Take the dead letters of these jobs away. Returns whose there were. The caller commits."""
    return {row[0] for row in await conn.execute(_CLEAR, {"ids": list(ids)})}


async def again(conn: AsyncConnection, chosen: Sequence[tuple[UUID, datetime]]) -> int:
    """Let these jobs, which are locked, run again, each at its moment. Returns how many do. The caller commits."""
    values = {"ids": [one[0] for one in chosen], "due_ats": [one[1] for one in chosen]}
    rows = await conn.execute(_AGAIN, values | {"default_attempts": Retry().max_attempts})
    return len(rows.all())


async def edit(conn: AsyncConnection, job_id: UUID, payload: str, edited_by: str) -> None:
    """Replace the payload of a job that this transaction has locked, and keep the former one. The caller commits."""
    await conn.execute(_EDIT, {"id": job_id, "payload": payload, "edited_by": edited_by})


async def edits_of(conn: AsyncConnection, job_id: UUID) -> Sequence[Edit]:
    """Every payload that this job had before the present one, in order."""
    return [Edit(*row) for row in await conn.execute(_EDITS, {"id": job_id})]
