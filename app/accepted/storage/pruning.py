"""Pruning: what is past its retention is deleted, in batches that hold no lock for long.

Expired idempotency keys are pruned by `accepted.storage.jobs.idempotency`.
"""

from datetime import datetime, timedelta

from accepted.domain.ids import floor_at
from accepted.storage.db.statements import Connection, Statement

SHORTEST = 86400.0
"""Seconds for which schedule runs are kept at least, because their rows keep a time from firing twice."""

_JOBS = Statement("""
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
"""One statement, because a job goes together with everything that belongs to it. The line of an ordering key goes with
its last job, unless that was cancelled before its turn and jobs before it still wait or run.
"""

_RUNS = Statement("""
WITH old AS MATERIALIZED (
    SELECT r.tenant, r.name, r.scheduled_at FROM schedule_runs r
    WHERE r.scheduled_at < now() - CAST(:retention AS float8) * interval '1 second'
      AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = r.job_id AND j.finished_at IS NULL)
    ORDER BY r.scheduled_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM schedule_runs r USING old
WHERE r.tenant = old.tenant AND r.name = old.name AND r.scheduled_at = old.scheduled_at
""")
_BATCHES = Statement("""
WITH old AS MATERIALIZED (
    SELECT b.id FROM batches b
    WHERE b.finished_at < now() - CAST(:retention AS float8) * interval '1 second'
      AND (SELECT j.id FROM jobs j WHERE j.batch_id = b.id LIMIT 1) IS NULL
    ORDER BY b.id LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM batches b USING old WHERE b.id = old.id
""")
_WORKERS = Statement("DELETE FROM workers WHERE heartbeat_at < now() - interval '1 day'")
_SAMPLES = Statement("DELETE FROM queue_samples WHERE at < now() - interval '1 hour'")
_TARGETS = Statement("DELETE FROM targets WHERE COALESCE(deferred_until, updated_at) < now() - interval '1 day'")
_SECRETS = Statement("DELETE FROM webhook_secrets WHERE expires_at < now()")


async def prune_jobs(conn: Connection, retention: float, retention_failed: float, now: datetime, limit: int) -> int:
    """Delete up to `limit` jobs that ended over `retention` seconds ago (`retention_failed` for failed ones).

    Returns how many. The caller commits.
    """
    newest = floor_at(now - timedelta(seconds=min(retention, retention_failed)))
    return await _JOBS.count(
        conn, newest=newest, retention=float(retention), retention_failed=float(retention_failed), limit=limit
    )


async def prune_runs(conn: Connection, retention: float, limit: int) -> int:
    """Delete up to `limit` schedule runs older than `retention` seconds, but `SHORTEST`, whose job has ended.

    Returns how many. The caller commits.
    """
    return await _RUNS.count(conn, retention=max(retention, SHORTEST), limit=limit)


async def prune_batches(conn: Connection, retention: float, limit: int) -> int:
    """Delete up to `limit` batches that finished over `retention` seconds ago and have no job left.

    Returns how many. The caller commits.
    """
    return await _BATCHES.count(conn, retention=float(retention), limit=limit)


async def prune_rest(conn: Connection) -> None:
    """Delete workers silent for a day, secrets past their rotation, queue samples past an hour, and targets that were
    not called for a day. The caller commits."""
    for statement in (_WORKERS, _SAMPLES, _TARGETS, _SECRETS):
        await statement.run(conn)
