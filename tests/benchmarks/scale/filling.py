"""Fills a migrated ledger by SQL with what millions of jobs leave behind: rows as the service itself writes them.

Of `jobs` finished jobs the newest tenth are the members of a batch that one more job keeps unfinished. One in ten has
failed and is a dead letter, so that 10 million jobs make a million letters; one in 2,000 was cancelled, and 20 are of a
rare type. As many jobs as the batch has members wait on the queue `default`. The statistics are as large as they get:
each series that a tenant may have, with a row for each minute of 25 hours and each ten minutes of 14 days.
"""

from typing import Any
from uuid import UUID

import asyncpg

from accepted.domain.ids import new_id
from accepted.storage.counts import letter_groups
from accepted.storage.counts.letter_groups import GROUP_KEY
from accepted.storage.monitoring import statistics

CHUNK = 500_000
"""Jobs in one statement: large enough to be fast, small enough that progress is seen."""

RARE = "sleep"
"""The type of 20 jobs; all others are `noop`."""

TENANT = "default"

_COLUMNS = "id, tenant, type, queue, status, priority, attempt, max_attempts, payload"

_FINISHED = f"""
WITH done AS MATERIALIZED (
    SELECT uuidv7(at - now()) AS id, n, at,
           CASE WHEN n % 10 = 0 THEN 'failed' WHEN n % 2000 = 1 THEN 'cancelled' ELSE 'succeeded' END AS status,
           pattern, replace(pattern, '…', CAST(n AS text)) AS message
    FROM (
        SELECT CAST(n AS int4) AS n, now() - interval '6 days' * (1 - CAST(n AS float8) / CAST($3 AS int4)) AS at
        FROM generate_series(CAST($1 AS int4), CAST($2 AS int4)) AS n
    ) AS numbered
    CROSS JOIN LATERAL (
        SELECT 'the host ' || chr(97 + n / 10 % 26) || chr(97 + n / 260 % 8) || '.example answered 503 after … ms'
            AS pattern
    ) AS said
), written AS (
    INSERT INTO jobs ({_COLUMNS}, result, error, created_at, run_at, started_at, finished_at, batch_id)
    SELECT id, '{TENANT}', CASE WHEN n % ($3 / 20) = 7 THEN '{RARE}' ELSE 'noop' END, 'default', status, 4,
           CASE WHEN status = 'cancelled' THEN 0 ELSE 1 END, 5, json_build_object('n', n),
           CASE WHEN status = 'succeeded' THEN '{{}}'::json END,
           CASE WHEN status = 'failed' THEN json_build_object('class', 'invalid', 'message', message, 'attempt', 1)
                WHEN status = 'cancelled'
                THEN json_build_object('class', 'cancelled', 'message', 'cancelled on request', 'attempt', 0) END,
           at, at, CASE WHEN status <> 'cancelled' THEN at + interval '3 ms' END, at + interval '6 ms',
           CASE WHEN n > $3 - $3 / 10 THEN CAST($4 AS uuid) END
    FROM done
), tried AS (
    INSERT INTO attempts (job_id, attempt, worker_id, started_at, finished_at, outcome, error)
    SELECT id, 1, '01990000-0000-7000-8000-000000000000', at + interval '3 ms', at + interval '6 ms', status,
           CASE WHEN status = 'failed' THEN json_build_object('class', 'invalid', 'message', message, 'attempt', 1) END
    FROM done WHERE status <> 'cancelled'
), dead AS (
    INSERT INTO dead_letters (job_id, tenant, queue, type, class, message, group_key, failed_at)
    SELECT id, '{TENANT}', queue, type, class, message, {GROUP_KEY}, at + interval '6 ms'
    FROM done CROSS JOIN (VALUES ('default', 'noop', 'invalid')) AS kind(queue, type, class) WHERE status = 'failed'
)
INSERT INTO idempotency_keys (tenant, key, fingerprint, job_id, expires_at)
SELECT '{TENANT}', 'order-' || n, sha256(int4send(n)), id, now() + interval '1 day' FROM done
"""

_WAITING = f"""
WITH waits AS MATERIALIZED (
    SELECT uuidv7() AS id, n FROM generate_series(CAST($1 AS int4), CAST($2 AS int4)) AS n
), written AS (
    INSERT INTO jobs ({_COLUMNS}, run_at, batch_id)
    SELECT id, '{TENANT}', 'noop', 'default', 'queued', 4, 0, 5, json_build_object('n', n), now(),
           CASE WHEN n = 1 THEN CAST($3 AS uuid) END
    FROM waits
)
INSERT INTO outbox (job_id, attempt, tenant, queue, priority, due_at, published)
SELECT id, 0, '{TENANT}', 'default', 4, now(), true FROM waits
"""

_BATCH = f"""
INSERT INTO batches (id, tenant, workflow, total, counts, created_at)
SELECT $1, '{TENANT}', false, sum(jobs), json_object_agg(status, jobs), now() - interval '1 day'
FROM (SELECT status, count(*) AS jobs FROM jobs WHERE batch_id = $1 GROUP BY status) AS counted
"""

_SERIES = f"""
INSERT INTO statistic_series (tenant, queue, type)
SELECT '{TENANT}', 'queue-' || n, 'noop' FROM generate_series(1, {statistics.MOST_OF_TENANT}) AS n
UNION ALL
SELECT tenant, '', '' FROM (VALUES ('{TENANT}'), ('')) AS all_of(tenant)
"""

_STATISTICS = f"""
INSERT INTO statistics (series, span, at, accepted, started, succeeded, wait_1, run_2, depth, oldest)
SELECT s.id, span, at, span, span, span, span, span,
       CASE WHEN s.type = '' THEN 7 END, CASE WHEN s.type = '' THEN 0.5 END
FROM (VALUES ({statistics.MINUTE}, now() - interval '{statistics.MINUTES_KEPT} seconds', now()),
             ({statistics.TEN_MINUTES}, now() - interval '{statistics.KEPT} seconds',
              now() - interval '{statistics.MINUTES_KEPT} seconds')) AS kept(span, first, last)
CROSS JOIN LATERAL generate_series(date_bin(span * interval '1 second', first, 'epoch'), last,
                                   span * interval '1 second') AS at
CROSS JOIN statistic_series AS s
"""

_ADD_UP = letter_groups._ADD_UP._sql
"""What the scheduler does every few seconds, a few thousand letters at a time."""

_QUEUE = "INSERT INTO queues (name, dedicated) VALUES ('default', true) ON CONFLICT DO NOTHING"
_PAIR = f"INSERT INTO queue_tenants (queue, tenant) VALUES ('default', '{TENANT}') ON CONFLICT DO NOTHING"


async def fill(conn: "asyncpg.Connection[Any]", jobs: int) -> UUID:
    """Write `jobs` finished jobs and a tenth as many that wait, and let PostgreSQL look at them; the batch's id."""
    batch = new_id()
    await conn.execute(_QUEUE)
    await conn.execute(_PAIR)
    for first in range(1, jobs + 1, CHUNK):
        await conn.execute(_FINISHED, first, min(first + CHUNK - 1, jobs), jobs, batch)
    for first in range(1, jobs // 10 + 1, CHUNK):
        await conn.execute(_WAITING, first, min(first + CHUNK - 1, jobs // 10), batch)
    await conn.execute(_BATCH, batch)
    while await conn.fetchval(_ADD_UP, CHUNK):
        pass
    await conn.execute(_SERIES)
    await conn.execute(_STATISTICS)
    await conn.execute("VACUUM (ANALYZE)")
    return batch
