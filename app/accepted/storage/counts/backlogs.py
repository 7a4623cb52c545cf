"""How many jobs of each queue wait or run, by status, and for how long: counted for the answer while few wait.

Past `EXACT` waiting jobs an answer takes what the sampler has counted last (`KEEP`), and says when that was. Jobs that
run are counted at once: there are no more of them than slots. Nothing is kept while few jobs wait.
"""

from datetime import datetime

import msgspec

from accepted.storage.db.statements import Connection, Statement
from accepted.storage.jobs.outbox import HOLD

EXACT = 20_000
"""Waiting jobs, of all queues, that are counted for an answer: some 40 ms."""

USABLE = 300.0
"""Seconds for which a count is used; past it no scheduler runs, and each answer counts for itself."""

_TOLD = f"""
    CASE WHEN published OR on_hold AND due_at < 'infinity' THEN 'queued' WHEN on_hold THEN 'blocked'
         WHEN attempt = 0 AND due_at > now() + interval '{HOLD} seconds' THEN 'scheduled' END
"""
"""The status of the job, if its row in `outbox` tells it: for most jobs, `jobs` need not be read."""

WAITING = f"""
    SELECT o.queue, o.tenant, o.job_id, o.due_at, COALESCE(o.told, j.status) AS status,
           COALESCE(j.run_at, o.due_at) AS ready_at
    FROM (SELECT queue, tenant, job_id, due_at, {_TOLD} AS told FROM outbox WHERE {{condition}}) AS o
    LEFT JOIN LATERAL (SELECT status, run_at FROM jobs WHERE o.told IS NULL AND id = o.job_id OFFSET 0) AS j ON true
"""
"""The waiting jobs with their status, and since when they are ready, which for a published one is its publication."""

_DUE = "(status = 'queued' OR due_at <= now())"
"""Whether a row of `WAITING` is due: also while a process has moved `due_at` ahead to publish it."""

COUNTED = f"""
    SELECT queue, tenant, status, count(*) AS jobs, count(*) FILTER (WHERE {_DUE}) AS due, min(ready_at) AS ready_at
    FROM ({WAITING.format(condition="true")}) AS waits GROUP BY queue, tenant, status
"""

KEEP = f"""forgotten AS (
    DELETE FROM queue_depths
), kept AS (
    INSERT INTO queue_depths (queue, tenant, status, jobs, due, ready_at, counted_at)
    SELECT queue, tenant, status, jobs, due, ready_at, now() FROM {{rows}}
    WHERE status IS NOT NULL AND (SELECT sum(jobs) FROM {{rows}}) > {EXACT // 2}
)"""
"""CTEs that replace what was kept by `rows` of `COUNTED`. It begins early, so that an answer finds a count."""

_KEPT = f"""kept AS MATERIALIZED (
    SELECT CASE WHEN (SELECT count(*) FROM (SELECT FROM outbox LIMIT {EXACT + 1}) AS seen) > {EXACT} THEN (
        SELECT max(counted_at) FROM queue_depths WHERE counted_at > now() - interval '{USABLE} seconds'
    ) END AS counted_at
)"""
"""The time of the count to use; null: count now."""

_NOW = "(SELECT counted_at FROM kept) IS NULL"

_WANTED = """(CAST(:queue AS text) IS NULL OR queue = :queue) AND (CAST(:tenant AS text) IS NULL OR tenant = :tenant)"""

_COUNTS = Statement(f"""
WITH {_KEPT}, waiting AS MATERIALIZED (
    {WAITING.format(condition=f"{_NOW} AND {_WANTED}")}
), first AS (
    SELECT DISTINCT ON (queue) queue, job_id FROM waiting WHERE status = 'queued' ORDER BY queue, ready_at, job_id
), unfinished AS (
    SELECT queue, status, count(*) AS jobs, CAST(NULL AS timestamptz) AS ready_at FROM waiting
    WHERE status IS NOT NULL GROUP BY queue, status
    UNION ALL
    SELECT f.queue, 'queued', 0, j.run_at
    FROM first f CROSS JOIN LATERAL (SELECT run_at FROM jobs WHERE id = f.job_id OFFSET 0) AS j
    UNION ALL
    SELECT queue, status, jobs, CASE status WHEN 'queued' THEN ready_at END FROM queue_depths
    WHERE counted_at = (SELECT counted_at FROM kept) AND {_WANTED}
    UNION ALL
    SELECT j.queue, j.status, 1, NULL
    FROM attempts t CROSS JOIN LATERAL (SELECT tenant, queue, status FROM jobs WHERE id = t.job_id OFFSET 0) AS j
    WHERE t.finished_at IS NULL AND {_WANTED}
    UNION ALL
    SELECT NULL, NULL, 0, NULL
)
SELECT queue, status, CAST(sum(jobs) AS int8) AS jobs, (SELECT counted_at FROM kept) AS counted_at,
       CAST(EXTRACT(epoch FROM now() - min(ready_at)) AS float8) AS oldest
FROM unfinished GROUP BY queue, status
""")
"""OFFSET 0 keeps the planner from scanning all jobs, of which most have finished, for the few that wait or run. The
oldest job is that whose row came due first. The row without a queue tells of the count where nothing waits."""

_COUNT_DUE = Statement(f"""
WITH {_KEPT}
SELECT CAST(COALESCE(sum(due), 0) AS int8) FROM (
    SELECT count(*) AS due FROM ({WAITING.format(condition=f"{_NOW} AND queue = :queue")}) AS waits WHERE {_DUE}
    UNION ALL
    SELECT due FROM queue_depths WHERE counted_at = (SELECT counted_at FROM kept) AND queue = :queue
) AS counted
""")


class Backlog(msgspec.Struct):
    """Unfinished jobs of a queue by status, and for how many seconds the oldest `queued` one has been ready."""

    counts: dict[str, int] = {}
    oldest: float | None = None


async def backlogs(
    conn: Connection, queue: str | None, tenant: str | None
) -> tuple[dict[str, Backlog], datetime | None]:
    """The unfinished jobs by queue, and when those that wait were counted; None: just now.

    No `queue`: of all queues. No `tenant`: of all tenants.
    """
    found: dict[str, Backlog] = {}
    counted_at = None
    for row in await _COUNTS.rows(conn, queue=queue, tenant=tenant):
        counted_at = row["counted_at"]
        if row["queue"] is not None:
            backlog = found.setdefault(row["queue"], Backlog())
            backlog.counts[row["status"]] = row["jobs"]
            backlog.oldest = backlog.oldest if row["oldest"] is None else row["oldest"]
    return found, counted_at


async def due(conn: Connection, queue: str) -> int:
    """How many jobs of the queue would run now if there were slots."""
    return int(await _COUNT_DUE.value(conn, queue=queue))
