"""Forgetting: what is past its retention leaves the ledger, in batches that hold no lock for long."""

from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.ids import floor_at

SHORTEST = 86400.0
"""Seconds for which runs of schedules are kept at least: their rows are what keeps a time from firing twice."""

_JOBS = text("""
WITH old AS MATERIALIZED (
    SELECT id, tenant, queue, ordering_key FROM jobs
    WHERE id < :newest AND finished_at < now() - CAST(:retention AS float8) * interval '1 second'
      AND (status <> 'failed' OR finished_at < now() - CAST(:retention_failed AS float8) * interval '1 second')
    ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
), their_attempts AS (
    DELETE FROM attempts t USING old WHERE t.job_id = old.id
), their_dead_letters AS (
    DELETE FROM dead_letters d USING old WHERE d.job_id = old.id
), their_edits AS (
    DELETE FROM payload_edits e USING old WHERE e.job_id = old.id
), their_steps AS (
    DELETE FROM steps s USING old WHERE s.job_id = old.id
), their_needs AS (
    DELETE FROM dependencies d USING old WHERE d.job_id = old.id AND d.on_success
), keys AS MATERIALIZED (
    SELECT u.tenant, u.key FROM unique_keys u JOIN old ON old.id = u.job_id ORDER BY u.tenant, u.key FOR UPDATE OF u
), their_keys AS (
    DELETE FROM unique_keys u USING keys WHERE u.tenant = keys.tenant AND u.key = keys.key
), lines AS MATERIALIZED (
    SELECT k.tenant, k.queue, k.key FROM ordering_keys k
    JOIN old ON (k.tenant, k.queue, k.key) = (old.tenant, old.queue, old.ordering_key) AND k.job_id = old.id
    WHERE NOT EXISTS (SELECT 1 FROM dependencies d WHERE d.job_id = old.id AND NOT d.on_success)
    ORDER BY k.tenant, k.queue, k.key FOR UPDATE OF k
), their_lines AS (
    DELETE FROM ordering_keys k USING lines l WHERE (k.tenant, k.queue, k.key) = (l.tenant, l.queue, l.key)
)
DELETE FROM jobs j USING old WHERE j.id = old.id
""")
"""A line goes with its last job, unless that was cancelled before its turn and those before it are still at work."""

_KEYS = text("""
WITH old AS MATERIALIZED (
    SELECT tenant, key FROM idempotency_keys WHERE expires_at <= now() LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM idempotency_keys k USING old WHERE k.tenant = old.tenant AND k.key = old.key
""")
_RUNS = text("""
WITH old AS MATERIALIZED (
    SELECT r.tenant, r.name, r.scheduled_at FROM schedule_runs r
    WHERE r.scheduled_at < now() - CAST(:retention AS float8) * interval '1 second'
      AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = r.job_id AND j.finished_at IS NULL)
    ORDER BY r.scheduled_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM schedule_runs r USING old
WHERE r.tenant = old.tenant AND r.name = old.name AND r.scheduled_at = old.scheduled_at
""")
_BATCHES = text("""
WITH old AS MATERIALIZED (
    SELECT b.id FROM batches b
    WHERE b.finished_at < now() - CAST(:retention AS float8) * interval '1 second'
      AND (SELECT j.id FROM jobs j WHERE j.batch_id = b.id LIMIT 1) IS NULL
    ORDER BY b.id LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM batches b USING old WHERE b.id = old.id
""")
_WORKERS = text("DELETE FROM workers WHERE heartbeat_at < now() - interval '1 day'")
_SAMPLES = text("DELETE FROM queue_samples WHERE at < now() - interval '1 hour'")
_TARGETS = text("DELETE FROM targets WHERE COALESCE(deferred_until, updated_at) < now() - interval '1 day'")
_SECRETS = text("DELETE FROM webhook_secrets WHERE expires_at < now()")


async def prune_jobs(
    conn: AsyncConnection, retention: float, retention_failed: float, now: datetime, limit: int
) -> int:
    """Delete up to `limit` finished jobs older than `retention` seconds (`retention_failed` for failed ones)."""
    values = {
        "newest": floor_at(now - timedelta(seconds=min(retention, retention_failed))),
        "retention": float(retention),
        "retention_failed": float(retention_failed),
        "limit": limit,
    }
    return int((await conn.execute(_JOBS, values)).rowcount)


async def prune_keys(conn: AsyncConnection, limit: int) -> int:
    """Delete up to `limit` idempotency records that are past their time."""
    return int((await conn.execute(_KEYS, {"limit": limit})).rowcount)


async def prune_runs(conn: AsyncConnection, retention: float, limit: int) -> int:
    """Delete up to `limit` runs of schedules older than `retention` seconds (a day at least) without a job at work."""
    return int((await conn.execute(_RUNS, {"retention": max(retention, SHORTEST), "limit": limit})).rowcount)


async def prune_batches(conn: AsyncConnection, retention: float, limit: int) -> int:
    """Delete up to `limit` batches that finished more than `retention` seconds ago and have no member left."""
    return int((await conn.execute(_BATCHES, {"retention": float(retention), "limit": limit})).rowcount)


async def prune_rest(conn: AsyncConnection) -> None:
    """Delete workers silent for a day, secrets whose rotation is over, samples that no rate is made of any more, and
    hosts that nobody called for a day."""
    await conn.execute(_WORKERS)
    await conn.execute(_SAMPLES)
    await conn.execute(_TARGETS)
    await conn.execute(_SECRETS)
