"""Pruning: what is past its retention and needed by nothing is deleted, in batches that hold no lock for long.

Expired idempotency keys are pruned by `accepted.storage.jobs.idempotency`.
"""

from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from accepted.domain.ids import floor_at
from accepted.domain.job import WEBHOOK_TYPE
from accepted.storage.db.engine import SCHEMA
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.jobs import metadata_index
from accepted.storage.webhooks import ABOUT

SHORTEST = 86400.0
"""Seconds for which schedule runs are kept at least, because their rows keep a time from firing twice."""

_CASE = f"CASE WHEN j.type = '{WEBHOOK_TYPE}' THEN CAST(j.payload ->> '{{name}}' AS uuid) END"
"""An id in the payload of a delivery. The payload of another type may hold anything under that name."""


def _undelivered(id_: str) -> str:
    """Whether a webhook about this job or batch is still on its way."""
    return f"""(
        SELECT d.id FROM jobs d WHERE d.type = '{WEBHOOK_TYPE}' AND {ABOUT.format(delivery="d")} = CAST({id_} AS text)
          AND d.finished_at IS NULL LIMIT 1
    ) IS NOT NULL"""


_WALKED = """
    (SELECT count(*) FROM walked) AS walked, (SELECT id FROM walked ORDER BY id OFFSET :limit - 1) AS last
"""
"""How many rows a statement has looked at, and the id after which to go on; NULL when there are no more."""

_NEEDED = f"""(
    (SELECT b.id FROM batches b WHERE b.id = j.batch_id) IS NOT NULL
    OR (SELECT w.id FROM dependencies d JOIN jobs w ON w.id = d.job_id
        WHERE d.needs = j.id AND w.finished_at IS NULL LIMIT 1) IS NOT NULL
    OR (SELECT d.needs FROM dependencies d WHERE d.job_id = j.id AND NOT d.on_success LIMIT 1) IS NOT NULL
    OR j.descendants > 0
       AND (SELECT c.id FROM jobs c WHERE c.root_id = j.id AND c.finished_at IS NULL LIMIT 1) IS NOT NULL
    OR j.callback_url IS NOT NULL AND {_undelivered("j.id")}
    OR j.type = '{WEBHOOK_TYPE}' AND COALESCE(
        (SELECT a.id FROM jobs a WHERE a.id = {_CASE.format(name="job_id")}),
        (SELECT b.id FROM batches b WHERE b.id = {_CASE.format(name="batch_id")})
    ) IS NOT NULL
)"""
"""Whether something still needs the finished job `j`:

- its batch, or a job that needs its result;
- its line, if it ended before its turn: the turn passes along its edge;
- the fan-out of which it is the root, whose jobs are counted on its row;
- a webhook about it that is not delivered yet;
- if it is a delivery, the job or batch that it is about: an empty list of deliveries means that nothing was sent.

Scalar subqueries, because PostgreSQL may turn EXISTS into a scan of all jobs, once for each statement.
"""

_OLD = Statement(f"""
WITH walked AS MATERIALIZED (
    SELECT id FROM jobs WHERE id > :after AND id < :newest ORDER BY id LIMIT :limit
), old AS MATERIALIZED (
    SELECT j.id FROM jobs j
    WHERE j.id = ANY(ARRAY(SELECT id FROM walked))
      AND j.finished_at < now() - CAST(:retention AS float8) * interval '1 second'
      AND (j.status <> 'failed' OR j.finished_at < now() - CAST(:retention_failed AS float8) * interval '1 second')
      AND NOT {_NEEDED}
    ORDER BY j.id FOR UPDATE OF j SKIP LOCKED
)
SELECT ARRAY(SELECT id FROM old) AS ids, {_WALKED}
""")

_DELETE = Statement(f"""
WITH old AS MATERIALIZED (
    SELECT j.id, j.tenant, j.queue, j.ordering_key, j.metadata FROM jobs j
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND NOT {_NEEDED}
), their_attempts AS (
    DELETE FROM attempts t USING old WHERE t.job_id = old.id
), their_dead_letters AS (
    DELETE FROM dead_letters d USING old WHERE d.job_id = old.id
), their_discards AS (
    DELETE FROM discarded_letters d USING old WHERE d.job_id = old.id
), their_edits AS (
    DELETE FROM payload_edits e USING old WHERE e.job_id = old.id
), their_steps AS (
    DELETE FROM steps s USING old WHERE s.job_id = old.id
), their_logs AS (
    DELETE FROM attempt_logs l USING old WHERE l.job_id = old.id
), their_metadata AS ({metadata_index.REMOVE.format(rows="old")}
), their_needs AS (
    DELETE FROM dependencies d USING old WHERE d.job_id = old.id
), keys AS MATERIALIZED (
    SELECT u.tenant, u.key FROM unique_keys u JOIN old ON old.id = u.job_id ORDER BY u.tenant, u.key FOR UPDATE OF u
), their_keys AS (
    DELETE FROM unique_keys u USING keys WHERE u.tenant = keys.tenant AND u.key = keys.key
), lines AS MATERIALIZED (
    SELECT k.tenant, k.queue, k.key FROM ordering_keys k
    JOIN old ON (k.tenant, k.queue, k.key) = (old.tenant, old.queue, old.ordering_key) AND k.job_id = old.id
    ORDER BY k.tenant, k.queue, k.key FOR UPDATE OF k
), their_lines AS (
    DELETE FROM ordering_keys k USING lines l WHERE (k.tenant, k.queue, k.key) = (l.tenant, l.queue, l.key)
)
DELETE FROM jobs j USING old WHERE j.id = old.id
""")
"""One statement, because a job goes together with everything that belongs to it. The line of an ordering key goes with
its last job.

It asks again what is needed, because its snapshot is younger than the locks of `_OLD`: whatever makes a finished job
needed again (a retry behind it, a child under it) locks that job first.
"""

_RUNS = Statement("""
WITH old AS MATERIALIZED (
    SELECT r.tenant, r.name, r.scheduled_at FROM schedule_runs r
    WHERE r.scheduled_at < now() - CAST(:retention AS float8) * interval '1 second'
      AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = r.job_id)
    ORDER BY r.scheduled_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM schedule_runs r USING old
WHERE r.tenant = old.tenant AND r.name = old.name AND r.scheduled_at = old.scheduled_at
""")
_BATCHES = Statement(f"""
WITH walked AS MATERIALIZED (
    SELECT id FROM batches WHERE id > :after AND id < :newest ORDER BY id LIMIT :limit
), old AS MATERIALIZED (
    SELECT b.id FROM batches b
    WHERE b.id = ANY(ARRAY(SELECT id FROM walked))
      AND b.finished_at < now() - CAST(:retention AS float8) * interval '1 second'
      AND (b.counts ->> 'failed' IS NULL
           OR b.finished_at < now() - CAST(:retention_failed AS float8) * interval '1 second')
      AND NOT (b.callback_url IS NOT NULL AND {_undelivered("b.id")})
    ORDER BY b.id FOR UPDATE OF b SKIP LOCKED
), gone AS (
    DELETE FROM batches b USING old WHERE b.id = old.id
)
SELECT (SELECT count(*) FROM old) AS deleted, {_WALKED}
""")
"""A batch goes as a whole: first its row, which nothing can reopen then, and after it its members, which the row has
kept. A batch with failed members is kept as long as these: each of them can be retried, and then needs the results of
the others and is counted with them.
"""

_WORKERS = Statement("DELETE FROM workers WHERE heartbeat_at < now() - interval '1 day'")
_PROCESSES = Statement("DELETE FROM processes WHERE heartbeat_at < now() - interval '1 day'")
_SAMPLES = Statement("DELETE FROM queue_samples WHERE at < now() - interval '1 hour'")
_TARGETS = Statement("DELETE FROM targets WHERE COALESCE(deferred_until, updated_at) < now() - interval '1 day'")
_RECEIVERS = Statement("DELETE FROM receivers WHERE updated_at < now() - interval '1 day'")
_SECRETS = Statement("DELETE FROM webhook_secrets WHERE expires_at < now()")
_SESSIONS = Statement("DELETE FROM sessions WHERE expires_at < now()")

_WRITTEN = Statement(f"""
SELECT n_tup_ins + n_tup_upd FROM pg_stat_user_tables WHERE schemaname = '{SCHEMA}' AND relname = 'jobs'
""")


class Walked(msgspec.Struct, frozen=True):
    """A step through old rows, by id: how many were deleted, how many there were, and the last one; None at the end."""

    deleted: int
    walked: int
    last: UUID | None


async def prune_jobs(
    conn: Connection, retention: float, retention_failed: float, now: datetime, after: UUID, limit: int
) -> Walked:
    """Delete those of the next `limit` jobs that ended over `retention` seconds ago (`retention_failed`: failed ones).

    Jobs that something still needs stay (`_NEEDED`). The caller commits.
    """
    ages = {"retention": float(retention), "retention_failed": float(retention_failed)}
    (row,) = await _OLD.rows(conn, after=after, newest=_newest(now, retention, retention_failed), **ages, limit=limit)
    deleted = await _DELETE.count(conn, ids=row["ids"]) if row["ids"] else 0
    return Walked(deleted, row["walked"], row["last"])


async def prune_runs(conn: Connection, retention: float, limit: int) -> int:
    """Delete up to `limit` schedule runs older than `retention` seconds, but `SHORTEST`, whose job has been deleted.

    Until then the job may be retried, and an overlap has to be seen. Returns how many. The caller commits.
    """
    return await _RUNS.count(conn, retention=max(retention, SHORTEST), limit=limit)


async def prune_batches(
    conn: Connection, retention: float, retention_failed: float, now: datetime, after: UUID, limit: int
) -> Walked:
    """Delete those of the next `limit` batches that finished over `retention` seconds ago (`retention_failed` with
    failed members) and whose webhook is delivered. Their members can then be pruned. The caller commits.
    """
    ages = {"retention": float(retention), "retention_failed": float(retention_failed)}
    newest = _newest(now, retention, retention_failed)
    (row,) = await _BATCHES.rows(conn, after=after, newest=newest, **ages, limit=limit)
    return struct(Walked, row)


async def jobs_written(conn: Connection) -> int:
    """How often jobs were inserted or changed so far, as PostgreSQL counts it."""
    return int(await _WRITTEN.value(conn))


async def prune_rest(conn: Connection) -> None:
    """Delete workers and processes silent for a day, secrets and sessions that have expired, queue samples past an
    hour, and targets and receivers that were not called for a day. The caller commits."""
    for statement in (_WORKERS, _PROCESSES, _SAMPLES, _TARGETS, _RECEIVERS, _SECRETS, _SESSIONS):
        await statement.run(conn)


def _newest(now: datetime, retention: float, retention_failed: float) -> UUID:
    """An id above those of all jobs or batches that may be past their retention."""
    return floor_at(now - timedelta(seconds=min(retention, retention_failed)))
