"""How much waits on each queue, and how fast it is worked off. Only waiting and running jobs are read.

`queue_samples` has a row for each queue and `BIN` seconds. Workers add the attempts that ended (`add_runs`); one
scheduler at a time writes how many jobs are due or running (`sample`), and a row of the queue `''`, which shows that it
counted: a queue without a row then had no such job. No request and no job waits for any of this.
"""

from collections.abc import Mapping, Sequence

import msgspec

from accepted.domain.rates import Measured
from accepted.storage.counts.backlogs import COUNTED, KEEP
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.queue_tenants import Pair
from accepted.storage.workers import ALIVE, serves

BIN = 5.0
"""Seconds in one sample."""

WINDOW = 300.0
"""Seconds over which rates are computed. If no attempt ended in them, the mean run time is that of the last hour, for
which samples are kept."""

STALE = 60.0
"""Seconds without a count after which there are no rates, because no scheduler runs."""

SAMPLED = 1000
"""Waiting jobs whose types are looked at, for each queue: a backlog of a million must not be read for a number."""

_SLOTS = Statement(f"""
WITH named AS MATERIALIZED (
    SELECT unnest(CAST(:queues AS text[])) AS name
), typed AS MATERIALIZED (
    SELECT queue, array_agg(type) AS types FROM (
        SELECT queue, name AS type FROM job_types WHERE tenant = '' AND queue = ANY(CAST(:queues AS text[]))
        UNION
        SELECT n.name, j.type FROM named n
        CROSS JOIN LATERAL (
            (SELECT job_id FROM outbox WHERE queue = n.name AND published LIMIT {SAMPLED})
            UNION ALL
            (SELECT job_id FROM outbox WHERE queue = n.name AND on_hold AND due_at < 'infinity' LIMIT {SAMPLED})
        ) AS o
        CROSS JOIN LATERAL (SELECT type FROM jobs WHERE id = o.job_id OFFSET 0) AS j
    ) AS each GROUP BY queue
), alive AS MATERIALIZED (
    SELECT w.queues, w.types, sum(w.slots) AS slots FROM workers w WHERE w.slots > 0 AND {ALIVE} GROUP BY 1, 2
)
SELECT n.name AS queue, CAST(COALESCE(sum(w.slots), 0) AS int8) AS slots
FROM named n LEFT JOIN typed t ON t.queue = n.name
LEFT JOIN alive w ON {serves("n.name")} AND (w.types IS NULL OR t.types IS NULL OR w.types && t.types)
GROUP BY n.name
""")
"""The types of a queue are the shared ones whose default it is, and those of some of the jobs that wait on it. Workers
that serve the same queues and types are one row of `alive`: there are few of these, however many workers and queues."""

_MAX_DEPTHS = Statement("SELECT name, max_depth FROM queues WHERE max_depth IS NOT NULL")

_DEPTHS = Statement("""
SELECT queue, tenant, count(*) AS waiting FROM outbox WHERE queue = ANY(CAST(:queues AS text[])) GROUP BY queue, tenant
""")
"""One pass over the waiting jobs, however many queues have a limit, and however many tenants use them."""

_WAITING = Statement("""
SELECT count(*) FROM (SELECT 1 FROM outbox WHERE queue = :queue AND tenant = :tenant LIMIT :limit) AS waiting
""")

_NOW = f"date_bin(interval '{BIN} seconds', now(), 'epoch')"

_ADD_RUNS = Statement(f"""
INSERT INTO queue_samples AS s (queue, at, runs, seconds)
SELECT queue, {_NOW}, runs, seconds
FROM unnest(CAST(:queues AS text[]), CAST(:runs AS int4[]), CAST(:seconds AS float8[])) AS r(queue, runs, seconds)
ORDER BY queue
ON CONFLICT (queue, at) DO UPDATE SET runs = s.runs + excluded.runs, seconds = s.seconds + excluded.seconds
""")

_SAMPLE = Statement(f"""
WITH waiting AS MATERIALIZED ({COUNTED}), {KEEP.format(rows="waiting")}, used AS MATERIALIZED (
    SELECT queue, tenant, due AS jobs FROM waiting
    UNION ALL
    SELECT j.queue, j.tenant, count(*)
    FROM attempts t CROSS JOIN LATERAL (SELECT queue, tenant FROM jobs WHERE id = t.job_id OFFSET 0) AS j
    WHERE t.finished_at IS NULL GROUP BY j.queue, j.tenant
), sampled AS (
    INSERT INTO queue_samples AS s (queue, at, depth)
    SELECT queue, {_NOW}, sum(jobs)
    FROM (SELECT queue, jobs FROM used WHERE jobs > 0 UNION ALL SELECT '', 0) AS counted
    GROUP BY queue ORDER BY queue
    ON CONFLICT (queue, at) DO UPDATE SET depth = excluded.depth
)
SELECT queue, tenant, CAST(sum(due) AS int8) AS due,
       CAST(EXTRACT(epoch FROM GREATEST(now() - min(ready_at), interval '0')) AS float8) AS oldest
FROM (
    SELECT queue, tenant, due, CASE status WHEN 'queued' THEN ready_at END AS ready_at FROM waiting
    UNION ALL
    SELECT queue, tenant, 0, NULL FROM used
) AS unfinished GROUP BY queue, tenant
""")

_MEASURED = Statement("""
WITH counted AS (
    SELECT min(at) AS first, max(at) AS last FROM queue_samples
    WHERE queue = '' AND at > now() - CAST(:window AS float8) * interval '1 second'
)
SELECT s.queue,
    CASE WHEN l.last > now() - CAST(:stale AS float8) * interval '1 second' AND l.last > l.first
         THEN CAST(EXTRACT(epoch FROM l.last - l.first) AS float8) END AS span,
    COALESCE(sum(s.runs) FILTER (WHERE s.at >= l.first AND s.at < l.last), 0) AS ended,
    COALESCE(sum(s.depth) FILTER (WHERE s.at = l.last), 0) - COALESCE(sum(s.depth) FILTER (WHERE s.at = l.first), 0)
        AS grown,
    CAST(COALESCE(
        sum(s.seconds) FILTER (WHERE s.at >= l.first) / NULLIF(sum(s.runs) FILTER (WHERE s.at >= l.first), 0),
        sum(s.seconds) / NULLIF(sum(s.runs), 0)
    ) AS float8) AS mean_run_time
FROM queue_samples s CROSS JOIN counted l
WHERE s.queue = ANY(CAST(:queues AS text[])) AND s.at > now() - interval '1 hour'
GROUP BY s.queue, l.first, l.last
""")
"""Attempts in a count's sample are taken to have ended after it."""

_SPAN = Statement("""
SELECT CAST(EXTRACT(epoch FROM max(at) - min(at)) AS float8) FROM queue_samples
WHERE queue = '' AND at > now() - CAST(:window AS float8) * interval '1 second'
HAVING max(at) > now() - CAST(:stale AS float8) * interval '1 second' AND max(at) > min(at)
""")


class QueueSample(msgspec.Struct, frozen=True):
    """Unfinished jobs of a tenant on a queue: how many wait and are due, and for how many seconds the oldest has been
    ready."""

    queue: str
    tenant: str
    due: int
    oldest: float | None

    @property
    def pair(self) -> Pair:
        return self.queue, self.tenant


async def slots(conn: Connection, queues: Sequence[str], lease_ttl: float) -> dict[str, int]:
    """For each of these queues the slots of the live workers that serve it, and at least one of its types."""
    rows = await _SLOTS.rows(conn, queues=list(queues), lease_ttl=float(lease_ttl))
    return {row["queue"]: row["slots"] for row in rows}


async def max_depths(conn: Connection) -> dict[str, int]:
    """How many jobs of each tenant may wait on each queue that has such a limit."""
    return {row["name"]: row["max_depth"] for row in await _MAX_DEPTHS.rows(conn)}


async def depths(conn: Connection, queues: Sequence[str]) -> dict[tuple[str, str], int]:
    """How many jobs wait on these queues, for any reason, by (queue, tenant). Pairs without one are left out."""
    rows = await _DEPTHS.rows(conn, queues=list(queues))
    return {(row["queue"], row["tenant"]): row["waiting"] for row in rows}


async def waiting(conn: Connection, queue: str, tenant: str, limit: int) -> int:
    """How many jobs of the tenant wait on the queue, for any reason; counts no further than `limit`."""
    return int(await _WAITING.value(conn, queue=queue, tenant=tenant, limit=limit))


async def add_runs(conn: Connection, runs: Mapping[str, tuple[int, float]]) -> None:
    """Add attempts that ended, by queue: how many, and how many seconds they ran in all. The caller commits."""
    queues = sorted(runs)
    await _ADD_RUNS.run(
        conn, queues=queues, runs=[runs[queue][0] for queue in queues], seconds=[runs[queue][1] for queue in queues]
    )


async def sample(conn: Connection) -> list[QueueSample]:
    """Write how many jobs are due or running on each queue, and keep the counts of a large backlog. The caller commits.

    Returns the queues and the tenants of all unfinished jobs.
    """
    return [struct(QueueSample, row) for row in await _SAMPLE.rows(conn)]


async def measured(conn: Connection, queues: Sequence[str]) -> dict[str, Measured]:
    """The rates and the mean run time of each of these queues."""
    bounds = {"window": WINDOW, "stale": STALE}
    span = await _SPAN.value(conn, **bounds)
    rows = await _MEASURED.rows(conn, **bounds, queues=list(queues))
    found = {row["queue"]: _measured(row["span"], row["ended"], row["grown"], row["mean_run_time"]) for row in rows}
    quiet = Measured() if span is None else Measured(span, 0.0, 0.0)
    return {queue: found.get(queue, quiet) for queue in queues}


def _measured(span: float | None, ended: int, grown: int, mean_run_time: float | None) -> Measured:
    if span is None:
        return Measured(mean_run_time=mean_run_time)
    return Measured(span, max(int(ended) + int(grown), 0) / span, int(ended) / span, mean_run_time)
