"""How much waits on each queue, for how long, and who is there to work it off. Only what waits or runs is looked at.

What is measured of queues: how much there is to do, now and then, and how long the attempts ran that ended.

`queue_samples` has a row for each queue and `BIN` seconds in which there was something to tell. Workers add what they
ran (`add_runs`), one scheduler at a time writes how many jobs were due or running (`sample`), and a row of the queue
`''`, which no queue is called, says that such a look was taken: a queue without a row then had nothing to do. Nothing
here is on the way of a job.
"""

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.rates import Measured
from accepted.storage.workers import ALIVE

_COUNTS = text("""
SELECT queue, status, count(*), CAST(EXTRACT(epoch FROM now() - min(ready_at)) AS float8)
FROM (
    SELECT o.queue, j.status, CASE j.status WHEN 'queued' THEN j.run_at END AS ready_at
    FROM outbox o CROSS JOIN LATERAL (SELECT tenant, status, run_at FROM jobs WHERE id = o.job_id OFFSET 0) AS j
    WHERE (CAST(:queue AS text) IS NULL OR o.queue = :queue) AND (CAST(:tenant AS text) IS NULL OR j.tenant = :tenant)
    UNION ALL
    SELECT j.queue, j.status, NULL
    FROM attempts t CROSS JOIN LATERAL (SELECT tenant, queue, status FROM jobs WHERE id = t.job_id OFFSET 0) AS j
    WHERE t.finished_at IS NULL
      AND (CAST(:queue AS text) IS NULL OR j.queue = :queue) AND (CAST(:tenant AS text) IS NULL OR j.tenant = :tenant)
) AS unfinished
GROUP BY queue, status
""")
"""Finished jobs are many: OFFSET 0 keeps the planner from reading all jobs for those few that wait or run."""

_DUE = text("SELECT count(*) FROM outbox WHERE queue = :queue AND due_at <= now()")

_SLOTS = text(f"""
SELECT w.queues, sum(w.slots) FROM workers w
WHERE w.slots > 0 AND {ALIVE} GROUP BY w.queues
""")

_DEPTHS = text("""
SELECT q.name, q.max_depth, COALESCE(o.waiting, 0)
FROM queues q LEFT JOIN (
    SELECT queue, count(*) AS waiting FROM outbox
    WHERE queue IN (SELECT name FROM queues WHERE max_depth IS NOT NULL) GROUP BY queue
) AS o ON o.queue = q.name
WHERE q.max_depth IS NOT NULL
""")
"""One pass over what waits, however many queues have a limit; none when no queue has one."""

_ANY_LIMIT = text("SELECT EXISTS (SELECT 1 FROM queues WHERE max_depth IS NOT NULL)")

_WAITING = text("SELECT count(*) FROM (SELECT 1 FROM outbox WHERE queue = :queue LIMIT :limit) AS waiting")


class Backlog(msgspec.Struct):
    """Unfinished jobs of a queue by status, and for how many seconds the longest of the `queued` has been ready."""

    counts: dict[str, int] = {}
    oldest: float | None = None


class QueueSlots(msgspec.Struct, frozen=True):
    """The slots of live workers: those that serve every queue, and those that serve the queues they name."""

    groups: Sequence[tuple[frozenset[str] | None, int]]

    def of(self, queue: str) -> int:
        return sum(slots for queues, slots in self.groups if queues is None or queue in queues)


class QueueDepth(msgspec.Struct, frozen=True):
    """How much may wait on a queue, and how much does."""

    queue: str
    limit: int
    waiting: int


async def backlogs(conn: AsyncConnection, queue: str | None, tenant: str | None) -> dict[str, Backlog]:
    """By queue what has not finished; None: of all queues, or of all tenants."""
    found: dict[str, Backlog] = {}
    for name, status, count, oldest in await conn.execute(_COUNTS, {"queue": queue, "tenant": tenant}):
        backlog = found.setdefault(name, Backlog())
        backlog.counts[status] = count
        backlog.oldest = oldest if oldest is not None else backlog.oldest
    return found


async def due(conn: AsyncConnection, queue: str) -> int:
    """How many jobs of the queue could run now, if there were slots."""
    return int((await conn.execute(_DUE, {"queue": queue})).scalar_one())


async def slots(conn: AsyncConnection, lease_ttl: float) -> QueueSlots:
    """Who is there to work."""
    rows = await conn.execute(_SLOTS, {"lease_ttl": float(lease_ttl)})
    return QueueSlots([(None if row[0] is None else frozenset(row[0]), int(row[1])) for row in rows])


async def depths(conn: AsyncConnection) -> list[QueueDepth]:
    """Every queue whose depth is limited."""
    if not (await conn.execute(_ANY_LIMIT)).scalar_one():
        return []
    return [QueueDepth(*row) for row in await conn.execute(_DEPTHS)]


async def waiting(conn: AsyncConnection, queue: str, limit: int) -> int:
    """How many jobs wait on the queue, for whatever reason; counted no further than `limit`."""
    return int((await conn.execute(_WAITING, {"queue": queue, "limit": limit})).scalar_one())


BIN = 5.0
"""Seconds in one sample."""

WINDOW = 300.0
"""Seconds over which rates are taken. A run time comes from the last hour, which is all that is kept, where none ended
within the window."""

STALE = 60.0
"""Seconds without a look after which there are no rates: no scheduler is running."""

_NOW = f"date_bin(interval '{BIN} seconds', now(), 'epoch')"

_ADD_RUNS = text(f"""
INSERT INTO queue_samples AS s (queue, at, runs, seconds)
SELECT queue, {_NOW}, runs, seconds
FROM unnest(CAST(:queues AS text[]), CAST(:runs AS int4[]), CAST(:seconds AS float8[])) AS r(queue, runs, seconds)
ORDER BY queue
ON CONFLICT (queue, at) DO UPDATE SET runs = s.runs + excluded.runs, seconds = s.seconds + excluded.seconds
""")

_SAMPLE = text(f"""
INSERT INTO queue_samples AS s (queue, at, depth)
SELECT queue, {_NOW}, sum(jobs) FROM (
    SELECT queue, count(*) AS jobs FROM outbox WHERE due_at <= now() GROUP BY queue
    UNION ALL
    SELECT j.queue, count(*)
    FROM attempts t CROSS JOIN LATERAL (SELECT queue FROM jobs WHERE id = t.job_id OFFSET 0) AS j
    WHERE t.finished_at IS NULL GROUP BY j.queue
    UNION ALL
    SELECT '', 0
) AS counted
GROUP BY queue ORDER BY queue
ON CONFLICT (queue, at) DO UPDATE SET depth = excluded.depth
""")

_MEASURED = text("""
WITH looks AS (
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
FROM queue_samples s CROSS JOIN looks l
WHERE s.queue = ANY(CAST(:queues AS text[])) AND s.at > now() - interval '1 hour'
GROUP BY s.queue, l.first, l.last
""")
"""What is in a sample of the time in which a look was taken counts as having ended after that look."""

_SPAN = text("""
SELECT CAST(EXTRACT(epoch FROM max(at) - min(at)) AS float8) FROM queue_samples
WHERE queue = '' AND at > now() - CAST(:window AS float8) * interval '1 second'
HAVING max(at) > now() - CAST(:stale AS float8) * interval '1 second' AND max(at) > min(at)
""")


async def add_runs(conn: AsyncConnection, runs: Mapping[str, tuple[int, float]]) -> None:
    """Attempts that ended, by queue: how many, and for how many seconds they ran in all. The caller commits."""
    queues = sorted(runs)
    await conn.execute(
        _ADD_RUNS,
        {"queues": queues, "runs": [runs[q][0] for q in queues], "seconds": [runs[q][1] for q in queues]},
    )


async def sample(conn: AsyncConnection) -> int:
    """Note how many jobs are due or running on each queue. Returns how many queues had any. The caller commits."""
    return int((await conn.execute(_SAMPLE)).rowcount) - 1


async def measured(conn: AsyncConnection, queues: Sequence[str]) -> dict[str, Measured]:
    """What was measured of each of these queues."""
    bounds = {"window": WINDOW, "stale": STALE}
    span = (await conn.execute(_SPAN, bounds)).scalar()
    rows = await conn.execute(_MEASURED, bounds | {"queues": list(queues)})
    found = {row.queue: _measured(row.span, row.ended, row.grown, row.mean_run_time) for row in rows}
    quiet = Measured() if span is None else Measured(span, 0.0, 0.0)
    return {queue: found.get(queue, quiet) for queue in queues}


def _measured(span: float | None, ended: int, grown: int, mean_run_time: float | None) -> Measured:
    if span is None:
        return Measured(mean_run_time=mean_run_time)
    return Measured(span, max(int(ended) + int(grown), 0) / span, int(ended) / span, mean_run_time)
