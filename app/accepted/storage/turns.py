"""The tenants that wait on a limited queue, with what they hold, and whose turn is next (`accepted.domain.turns`).

The turn is kept by `queues.last_tenant` and `queues.turn_taken`; the turn of a tenant's concurrency keys, by
`queue_tenants.last_key`. What a tenant holds is counted from rows that exist anyway, as every limit is.
"""

from collections.abc import Mapping, Sequence

from accepted.domain.job import WEBHOOK_QUEUE
from accepted.domain.turns import TenantLoad
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.workers import ALIVE, SERVES

MOST = 100
"""Tenants that one round looks at. The next one goes on behind the last that was served."""

NEXT = """
    SELECT o.tenant FROM outbox o
    WHERE o.queue = {queue} AND o.on_hold AND o.due_at < 'infinity' AND o.tenant {after} ORDER BY o.tenant LIMIT 1
"""
"""The next tenant with a row on hold: one probe of an index, however many rows the tenant has."""

_LIVES = f"w.slots > 0 AND w.ends_at IS NULL AND {ALIVE}"

_LOCK_CAPPED = Statement("""
SELECT s.tenant FROM tenant_shares s JOIN queue_tenants u ON u.tenant = s.tenant AND u.queue = :queue
WHERE s.max_running IS NOT NULL ORDER BY s.tenant FOR UPDATE OF s SKIP LOCKED
""")

_LOADS = Statement(f"""
WITH RECURSIVE later(tenant, place) AS (
    SELECT ({NEXT.format(queue=":queue", after="> CAST(:last AS text)")}), 1 WHERE CAST(:last AS text) IS NOT NULL
    UNION ALL
    SELECT ({NEXT.format(queue=":queue", after="> l.tenant")}), l.place + 1
    FROM later l WHERE l.tenant IS NOT NULL AND l.place < {MOST}
), earlier(tenant, place) AS (
    SELECT ({NEXT.format(queue=":queue", after=">= ''")}), {MOST} + 1
    UNION ALL
    SELECT ({NEXT.format(queue=":queue", after="> e.tenant")}), e.place + 1 FROM earlier e
    WHERE e.tenant IS NOT NULL AND e.place < 2 * {MOST}
      AND (CAST(:last AS text) IS NULL OR e.tenant < CAST(:last AS text))
), ring AS MATERIALIZED (
    SELECT tenant, min(place) AS place FROM (SELECT * FROM later UNION ALL SELECT * FROM earlier) AS found
    WHERE tenant IS NOT NULL GROUP BY tenant ORDER BY place LIMIT {MOST}
), serving AS MATERIALIZED (
    SELECT w.id, w.slots FROM workers w
    WHERE w.tenant IS NULL AND {_LIVES} AND {SERVES}
), taken AS MATERIALIZED (
    SELECT j.tenant, j.queue, t.worker_id, false AS aside
    FROM attempts t CROSS JOIN LATERAL (SELECT tenant, queue FROM jobs WHERE id = t.job_id OFFSET 0) AS j
    WHERE t.finished_at IS NULL
    UNION ALL
    SELECT o.tenant, o.queue, NULL, o.unserved <> '' FROM outbox o WHERE o.admitted
), load AS MATERIALIZED (
    SELECT tenant, count(*) FILTER (WHERE queue = :queue) AS here,
           count(*) FILTER (
               WHERE worker_id IN (SELECT id FROM serving) OR (worker_id IS NULL AND queue = :queue AND NOT aside)
           ) AS held,
           count(*) FILTER (WHERE queue <> :deliveries) AS everywhere
    FROM taken GROUP BY tenant
)
SELECT r.tenant, COALESCE(l.here, 0) AS here, COALESCE(l.held, 0) AS held, COALESCE(l.everywhere, 0) AS everywhere,
       COALESCE(s.weight, 1) AS weight, CASE WHEN :queue <> :deliveries THEN s.max_running END AS most, u.last_key,
       EXISTS (SELECT 1 FROM workers w WHERE w.tenant = r.tenant AND :queue = ANY(w.queues) AND {_LIVES}) AS leases,
       (SELECT CAST(COALESCE(sum(slots), 0) AS int8) FROM serving) AS slots
FROM ring r
LEFT JOIN load l ON l.tenant = r.tenant
LEFT JOIN tenant_shares s ON s.tenant = r.tenant
LEFT JOIN queue_tenants u ON u.queue = :queue AND u.tenant = r.tenant
ORDER BY r.place
""")

_PASS_ON = Statement("""
INSERT INTO queue_tenants AS u (queue, tenant, last_key)
SELECT :queue, tenant, last_key FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[])) AS k(tenant, last_key)
ORDER BY tenant
ON CONFLICT (queue, tenant) DO UPDATE SET last_key = excluded.last_key
""")


async def lock_capped(conn: Connection, queue: str) -> set[str]:
    """Lock the `max_running` of the queue's tenants, as far as no limiter of another queue has locked it. Returns
    those that were locked. Their jobs are counted in a later statement, so no two limiters admit for one of them."""
    return set(await _LOCK_CAPPED.values(conn, queue=queue))


async def waiting(conn: Connection, queue: str, last: str | None, lease_ttl: float) -> tuple[list[TenantLoad], int]:
    """Up to `MOST` tenants that wait on a locked queue, beginning after `last`, and the slots of its worker processes.

    A statement of its own after the locks.
    """
    rows = await _LOADS.rows(conn, queue=queue, last=last, deliveries=WEBHOOK_QUEUE, lease_ttl=float(lease_ttl))
    return [struct(TenantLoad, row) for row in rows], rows[0]["slots"] if rows else 0


async def pass_on(conn: Connection, queue: str, last_keys: Mapping[str, str | None]) -> None:
    """Continue the keys of each tenant after these. The caller commits."""
    tenants: Sequence[str] = sorted(last_keys)
    await _PASS_ON.run(conn, queue=queue, tenants=tenants, keys=[last_keys[tenant] for tenant in tenants])
