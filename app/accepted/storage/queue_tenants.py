"""Which tenants use which queues. A queue that several use is limited: they take turns on it (docs/waiting.md).

A pair is written before or with the first job of the tenant on the queue, and found again by the sampler if it is
missing. It goes with the queue.
"""

from collections.abc import Iterable
from typing import TypeAlias

from accepted.domain.job import NewJob
from accepted.storage.db.statements import Connection, Statement

Pair: TypeAlias = tuple[str, str]
"""A queue, and a tenant that uses it."""

NEW_QUEUE_CHANNEL = "accepted_queues"
"""Notifies workers that serve every queue of a new one."""

MADE_LIMITED = "limited = true, limited_at = now()"
"""plain -> limited, as an assignment."""

SHARED = "(SELECT count(*) FROM (SELECT 1 FROM queue_tenants u WHERE u.queue = {queue} LIMIT 2) AS first) > 1"
"""Whether several tenants use the queue."""

CAPPED = """EXISTS (
    SELECT 1 FROM queue_tenants u JOIN tenant_shares s ON s.tenant = u.tenant
    WHERE u.queue = {queue} AND s.max_running IS NOT NULL
)"""
"""Whether a tenant that uses the queue has a `max_running` of its own."""

_ANNOUNCE = Statement(f"""
WITH used AS MATERIALIZED (
    SELECT queue, tenant FROM unnest(CAST(:queues AS text[]), CAST(:tenants AS text[])) AS u(queue, tenant)
), named AS (
    INSERT INTO queues AS q (name, dedicated)
    SELECT DISTINCT n.queue, EXISTS (SELECT 1 FROM job_types y WHERE y.tenant = '' AND y.queue = n.queue) FROM used n
    WHERE NOT EXISTS (SELECT 1 FROM queues k WHERE k.name = n.queue AND k.dedicated IS NOT NULL) ORDER BY n.queue
    ON CONFLICT (name) DO UPDATE SET dedicated = excluded.dedicated WHERE q.dedicated IS NULL RETURNING name
), paired AS (
    INSERT INTO queue_tenants (queue, tenant)
    SELECT n.queue, n.tenant FROM used n
    WHERE NOT EXISTS (SELECT 1 FROM queue_tenants k WHERE k.queue = n.queue AND k.tenant = n.tenant)
    ORDER BY n.queue, n.tenant ON CONFLICT DO NOTHING RETURNING queue
), told AS (
    SELECT pg_notify('{NEW_QUEUE_CHANNEL}', '') FROM named LIMIT 1
)
SELECT DISTINCT queue FROM paired WHERE (SELECT count(*) FROM told) >= 0
""")
"""Leaves out what is there: a conflict would lock its rows until the transaction ends."""

_LOCK = Statement("""
SELECT name FROM queues WHERE name = ANY(CAST(:queues AS text[])) AND NOT limited ORDER BY name FOR NO KEY UPDATE
""")

_LIMIT = Statement(f"""
UPDATE queues q SET {MADE_LIMITED}
WHERE NOT q.limited AND q.name = ANY(CAST(:queues AS text[]))
  AND ({SHARED.format(queue="q.name")} OR {CAPPED.format(queue="q.name")})
""")


def pairs_of(jobs: Iterable[NewJob]) -> set[Pair]:
    """The queues of these jobs, with their tenants."""
    return {(job.queue, job.tenant) for job in jobs}


async def announce(conn: Connection, pairs: Iterable[Pair]) -> None:
    """Write the queues and pairs that have no row yet, and notify the workers of new queues. The caller commits.

    A queue belongs to the workers of the shared types whose default it is when its first job comes; if there is none,
    it belongs to all workers, even if a type makes it its default later. A queue is limited from its second tenant on,
    or from the first with a `max_running`.
    Rows are written in the order of their names, so two batches cannot deadlock.
    """
    announced = sorted(pairs)
    queues, tenants = [queue for queue, _ in announced], [tenant for _, tenant in announced]
    if new := await _ANNOUNCE.values(conn, queues=queues, tenants=tenants):
        await _limit(conn, new)


async def _limit(conn: Connection, queues: list[str]) -> None:
    """Two transactions that write one pair each do not see each other's. So the one that locks the queue later counts:
    in a statement of its own, which sees what the other has committed."""
    await _LOCK.run(conn, queues=queues)
    await _LIMIT.run(conn, queues=queues)
