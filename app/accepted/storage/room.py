"""The room on a limited queue: slots of live worker processes and of waiting lease requests, by the types they serve.

Counted from rows that exist anyway: workers, admitted outbox rows and open attempts. The caller has locked the queue
(`accepted.storage.limiter.lock`), so nobody else admits meanwhile.
"""

import msgspec

from accepted.domain.job import INTERNAL_TYPES
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.holding import BACK_ON_HOLD
from accepted.storage.workers import ALIVE, SERVES

_LIVES = f"w.slots > 0 AND w.ends_at IS NULL AND {ALIVE}"

WANTED = f"""EXISTS (
    SELECT 1 FROM jobs j JOIN workers w ON w.tenant = j.tenant AND (w.types IS NULL OR j.type = ANY(w.types))
    WHERE j.id = o.job_id AND j.type <> ALL(CAST(:internal AS text[])) AND :queue = ANY(w.queues) AND {_LIVES}
)"""
"""Whether a waiting lease request can take this row of `outbox o`."""

OPEN = """
    FROM attempts t CROSS JOIN LATERAL (SELECT queue, concurrency_key FROM jobs WHERE id = t.job_id OFFSET 0) AS j
    WHERE t.finished_at IS NULL AND j.queue = :queue
"""
"""Open attempts are few and jobs are many: OFFSET 0 keeps the planner from ever reading all jobs for them."""

_ROOM = Statement(f"""
WITH free AS MATERIALIZED (
    SELECT w.tenant, w.types, GREATEST(w.slots - (
        SELECT count(*) FROM attempts t WHERE t.worker_id = w.id AND t.finished_at IS NULL
    ), 0) AS slots
    FROM workers w WHERE {_LIVES} AND {SERVES}
), processes AS MATERIALIZED (
    SELECT types, CAST(sum(slots) AS int8) AS slots FROM free WHERE tenant IS NULL GROUP BY types
), requests AS MATERIALIZED (
    SELECT tenant, types, CAST(sum(slots) AS int8) AS slots FROM free WHERE tenant IS NOT NULL GROUP BY tenant, types
), admitted AS MATERIALIZED (
    SELECT job_id FROM outbox WHERE queue = :queue AND admitted
), known AS MATERIALIZED (
    SELECT id, tenant, type FROM jobs WHERE id = ANY(ARRAY(SELECT job_id FROM admitted))
), unclaimed AS MATERIALIZED (
    SELECT j.type, count(*) AS n, count(*) FILTER (
        WHERE j.type <> ALL(CAST(:internal AS text[])) AND EXISTS (
            SELECT 1 FROM requests r WHERE r.tenant = j.tenant AND (r.types IS NULL OR j.type = ANY(r.types))
        )
    ) AS wanted
    FROM admitted a LEFT JOIN known j ON j.id = a.job_id GROUP BY j.type
), shared AS MATERIALIZED (
    SELECT n, wanted, LEAST(n, (
        SELECT COALESCE(sum(slots), 0) FROM processes p WHERE p.types IS NULL OR u.type = ANY(p.types)
    )) AS covered
    FROM unclaimed u
), able AS MATERIALIZED (
    SELECT type, CAST(sum(slots) - COALESCE(min(n), 0) AS int4) AS slots
    FROM (SELECT unnest(types) AS type, slots FROM processes WHERE slots > 0) AS p LEFT JOIN unclaimed USING (type)
    GROUP BY type
)
SELECT (SELECT CAST(COALESCE(sum(slots), 0) AS int8) FROM processes) AS free,
       (SELECT CAST(COALESCE(sum(slots), 0) AS int8) FROM requests) AS leases,
       CAST(COALESCE(sum(n), 0) AS int8) AS admitted,
       CAST(COALESCE(sum(covered), 0) AS int8) AS covered,
       CAST(COALESCE(sum(wanted), 0) AS int8) AS wanted,
       CAST(COALESCE(sum(LEAST(n - covered, wanted)), 0) AS int8) AS only_wanted,
       CASE WHEN CAST(:limited AS bool) THEN (SELECT count(*) {OPEN}) END AS run,
       CASE WHEN NOT EXISTS (SELECT 1 FROM processes WHERE types IS NULL)
            THEN ARRAY(SELECT DISTINCT unnest(types) FROM processes) END AS types,
       CASE WHEN NOT EXISTS (SELECT 1 FROM processes WHERE types IS NULL AND slots > 0)
            THEN ARRAY(SELECT type FROM able WHERE slots > 0 ORDER BY type) END AS able,
       ARRAY(SELECT slots FROM able WHERE slots > 0 ORDER BY type) AS able_slots
FROM shared
""")
"""The worker processes of a fleet mostly serve the same types, so `processes` has few rows."""

_TAKE_BACK = Statement(f"""
WITH idle AS MATERIALIZED (
    SELECT o.job_id FROM outbox o WHERE o.queue = :queue AND o.admitted AND NOT {WANTED}
    ORDER BY (CAST(:types AS text[]) IS NULL OR EXISTS (
        SELECT 1 FROM jobs j WHERE j.id = o.job_id AND j.type = ANY(CAST(:types AS text[]))
    )), o.priority, o.due_at DESC LIMIT :limit FOR UPDATE SKIP LOCKED
){BACK_ON_HOLD.format(rows="idle")}
""")


class Room(msgspec.Struct, frozen=True):
    """The room on a queue: `free` slots of live worker processes, and `leases` that requests wait for.

    `admitted` rows are not claimed yet. Free slots of worker processes with their types suffice for `covered` of them;
    waiting lease requests can take `wanted`, of which `only_wanted` are not covered. `run` counts the running jobs, if
    it was asked for. `types`: what the worker processes serve; None: any type. `able`: the types for which they have
    free slots beside the admitted rows, `able_slots` each; None: any type.
    """

    free: int
    leases: int
    admitted: int
    covered: int
    wanted: int
    only_wanted: int
    run: int | None
    types: list[str] | None = None
    able: list[str] | None = None
    able_slots: list[int] = []

    @property
    def for_any(self) -> int:
        """Free slots of worker processes that no admitted row is for."""
        return max(self.free - self.covered, 0)

    @property
    def for_wanted(self) -> int:
        """Leases that requests wait for, and that no admitted row is for."""
        return max(self.leases - self._left_to_leases, 0)

    @property
    def idle(self) -> int:
        """Admitted rows that nobody can take now: who they were admitted for has gone, or is busy."""
        return max(self.admitted - min(self.covered, self.free) - self._left_to_leases, 0)

    @property
    def _left_to_leases(self) -> int:
        return min(self.only_wanted + max(self.covered - self.free, 0), self.wanted)


async def room(conn: Connection, queue: str, lease_ttl: float, limited: bool) -> Room:
    """The room on a locked queue; `limited` counts its running jobs, too. A statement of its own after `lock`."""
    (row,) = await _ROOM.rows(conn, queue=queue, lease_ttl=lease_ttl, limited=limited, internal=list(INTERNAL_TYPES))
    return struct(Room, row)


async def take_back(conn: Connection, queue: str, lease_ttl: float, room: Room) -> int:
    """Put the `idle` rows back on hold, as far as no waiting lease request can take them. The caller commits."""
    values = {"queue": queue, "lease_ttl": lease_ttl, "internal": list(INTERNAL_TYPES)}
    return await _TAKE_BACK.count(conn, **values, limit=room.idle, types=room.types)
