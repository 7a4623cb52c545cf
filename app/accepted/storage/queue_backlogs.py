"""How much waits on each queue, for how long, and who is there to work it off. Only what waits or runs is looked at."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

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

_WAITING = text("SELECT count(*) FROM (SELECT 1 FROM outbox WHERE queue = :queue LIMIT :most) AS waiting")


class Backlog(msgspec.Struct):
    """Unfinished jobs of a queue by status, and for how many seconds the longest of the `queued` has been ready."""

    counts: dict[str, int] = {}
    oldest: float | None = None


class Slots(msgspec.Struct, frozen=True):
    """The slots of live workers: those that serve every queue, and those that serve the queues they name."""

    groups: Sequence[tuple[frozenset[str] | None, int]]

    def of(self, queue: str) -> int:
        return sum(slots for queues, slots in self.groups if queues is None or queue in queues)


class Depth(msgspec.Struct, frozen=True):
    """How much may wait on a queue, and how much does."""

    queue: str
    most: int
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


async def slots(conn: AsyncConnection, lease_ttl: float) -> Slots:
    """Who is there to work."""
    rows = await conn.execute(_SLOTS, {"lease_ttl": float(lease_ttl)})
    return Slots([(None if row[0] is None else frozenset(row[0]), int(row[1])) for row in rows])


async def depths(conn: AsyncConnection) -> list[Depth]:
    """Every queue whose depth is limited."""
    if not (await conn.execute(_ANY_LIMIT)).scalar_one():
        return []
    return [Depth(*row) for row in await conn.execute(_DEPTHS)]


async def waiting(conn: AsyncConnection, queue: str, most: int) -> int:
    """How many jobs wait on the queue, for whatever reason; counted no further than `most`."""
    return int((await conn.execute(_WAITING, {"queue": queue, "most": most})).scalar_one())
