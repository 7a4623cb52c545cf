"""Room on limited queues: counted from outbox rows and attempts. `accepted.storage.admission` gives it.

The design is in docs/waiting.md. The limiter locks the queue's row and counts in a later statement, so it sees what was
admitted before. Nothing else makes more of a limited queue run: a claim turns one admitted row into one open attempt,
in one statement.
"""

from datetime import datetime

import msgspec

from accepted.domain.job import INTERNAL_TYPES, WEBHOOK_QUEUE
from accepted.domain.turns import Turn
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.queue_tenants import CAPPED, SHARED
from accepted.storage.queues import BACK_ON_HOLD, UNADMITTED
from accepted.storage.turns import NEXT
from accepted.storage.workers import ALIVE, SERVES

WAITS = "o.queue = :queue AND o.on_hold AND o.due_at < 'infinity' AND (o.expires_at IS NULL OR o.expires_at > now())"

SERVED = "(o.unserved = '' OR CAST(:able AS text[]) IS NULL OR o.unserved = ANY(CAST(:able AS text[])))"
"""Whether a row was not set aside, or a worker process with a free slot serves its type (:able)."""

_LIVES = f"w.slots > 0 AND w.ends_at IS NULL AND {ALIVE}"

WANTED = f"""EXISTS (
    SELECT 1 FROM jobs j JOIN workers w ON w.tenant = j.tenant AND (w.types IS NULL OR j.type = ANY(w.types))
    WHERE j.id = o.job_id AND j.type <> ALL(CAST(:internal AS text[])) AND :queue = ANY(w.queues) AND {_LIVES}
)"""
"""Whether a waiting lease request can take this row of `outbox o`. Worker processes take any row."""

_POLL = Statement(f"""
SELECT * FROM (
    SELECT q.name AS queue,
           EXISTS (SELECT 1 FROM outbox o WHERE {UNADMITTED.format(queue="q.name", paused="q.paused")}) AS unadmitted,
           NOT q.paused
           AND EXISTS (SELECT 1 FROM outbox o WHERE o.queue = q.name AND o.on_hold AND o.due_at < 'infinity') AS waits
    FROM queues q WHERE q.limited
) AS each WHERE unadmitted OR waits ORDER BY queue
""")

_LOCK = Statement(f"""
SELECT q.max_running, q.rate_per / q.rate_jobs AS "interval", q.max_running_per_key, q.last_tenant, q.turn_taken,
       CAST(EXTRACT(epoch FROM clock_timestamp() - q.last_start) AS float8) AS since_start, clock_timestamp() AS now,
       q.name = :deliveries AS deliveries, f.tenant AS first,
       (SELECT last_key FROM queue_tenants u WHERE u.queue = q.name AND u.tenant = f.tenant) AS last_key,
       {SHARED.format(queue="q.name")} OR ({NEXT.format(queue="q.name", after="> f.tenant")}) IS NOT NULL AS shared,
       {CAPPED.format(queue="q.name")} AS capped
FROM queues q LEFT JOIN LATERAL ({NEXT.format(queue="q.name", after=">= ''")}) AS f ON true
WHERE q.name = :queue AND q.limited AND NOT q.paused FOR UPDATE OF q SKIP LOCKED
""")

_OPEN = """
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
), waiting AS MATERIALIZED (
    SELECT CAST(COALESCE(sum(slots), 0) AS int8) AS leases FROM free WHERE tenant IS NOT NULL
), able AS MATERIALIZED (
    SELECT type, CAST(sum(slots) - COALESCE(min(n), 0) AS int4) AS slots
    FROM (SELECT unnest(types) AS type, slots FROM free WHERE tenant IS NULL AND slots > 0) AS f LEFT JOIN (
        SELECT unserved AS type, count(*) AS n FROM outbox WHERE queue = :queue AND admitted GROUP BY unserved
    ) AS admitted USING (type) GROUP BY type
)
SELECT (SELECT CAST(COALESCE(sum(slots), 0) AS int8) FROM free WHERE tenant IS NULL) AS free, waiting.leases,
       (SELECT count(*) FROM outbox o WHERE o.queue = :queue AND o.admitted) AS admitted,
       CASE WHEN waiting.leases = 0 THEN 0
            ELSE (SELECT count(*) FROM outbox o WHERE o.queue = :queue AND o.admitted AND {WANTED}) END AS wanted,
       CASE WHEN CAST(:limited AS bool) THEN (SELECT count(*) {_OPEN}) END AS run,
       CASE WHEN NOT EXISTS (SELECT 1 FROM free WHERE tenant IS NULL AND slots > 0 AND types IS NULL)
            THEN ARRAY(SELECT type FROM able WHERE slots > 0 ORDER BY type) END AS able,
       ARRAY(SELECT slots FROM able WHERE slots > 0 ORDER BY type) AS able_slots
FROM waiting
""")

_TAKE_BACK = Statement(f"""
WITH idle AS MATERIALIZED (
    SELECT o.job_id FROM outbox o WHERE o.queue = :queue AND o.admitted AND NOT {WANTED}
    ORDER BY o.priority, o.due_at DESC LIMIT :limit FOR UPDATE SKIP LOCKED
){BACK_ON_HOLD.format(rows="idle")}
""")

_PASS_ON = Statement("""
UPDATE queues SET
    last_tenant = :last_tenant, turn_taken = :taken,
    last_start = COALESCE(CAST(:now AS timestamptz) + CAST(:counts AS float8) * interval '1 second', last_start)
WHERE name = :queue
""")


class Waiting(msgspec.Struct, frozen=True):
    """A limited queue with work for the limiter: rows published but `unadmitted` (or paused), or rows that wait."""

    queue: str
    unadmitted: bool
    waits: bool


class LockedQueue(msgspec.Struct, frozen=True):
    """The limits of a queue whose row this transaction has locked. Its last start was `since_start` seconds ago.

    `first` is a tenant that waits, with the key that was served last;
    it is the only one unless the queue is `shared`. `capped`: a tenant of the queue has a `max_running` of its own.
    """

    max_running: int | None
    interval: float | None
    max_running_per_key: int | None
    turn: Turn
    since_start: float | None
    now: datetime
    deliveries: bool
    first: str | None
    last_key: str | None
    shared: bool
    capped: bool

    @property
    def keyed(self) -> bool:
        """Whether a limit counts the running jobs of each key."""
        return self.max_running_per_key is not None or self.deliveries

    @property
    def counts_running(self) -> bool:
        """Whether a limit counts the running jobs of the queue."""
        return self.max_running is not None or self.keyed


class Room(msgspec.Struct, frozen=True):
    """The room on a queue: `free` slots of live worker processes, and `leases` that requests wait for.

    `admitted` rows are not claimed yet; waiting lease requests can take `wanted` of them. `run` counts the running
    jobs, if it was asked for. `able`: the types that worker processes have free slots for, beside the admitted rows
    that were set aside; so many `able_slots` each. None: any type.
    """

    free: int
    leases: int
    admitted: int
    wanted: int
    run: int | None
    able: list[str] | None = None
    able_slots: list[int] = []

    @property
    def for_any(self) -> int:
        """Free slots minus the admitted rows that only worker processes can take; below 0: too many are admitted."""
        return self.free - (self.admitted - self.wanted)

    @property
    def for_wanted(self) -> int:
        return max(self.leases - self.wanted, 0)

    def left(self, locked: LockedQueue) -> int:
        """How many more jobs may be admitted, by slots and by the limits that count running jobs."""
        left = max(self.for_any, 0) + self.for_wanted
        running = self.admitted + (self.run or 0)
        return left if locked.max_running is None else min(left, locked.max_running - running)


async def poll(conn: Connection) -> list[Waiting]:
    """The limited queues with something to do."""
    return [struct(Waiting, row) for row in await _POLL.rows(conn)]


async def lock(conn: Connection, queue: str) -> LockedQueue | None:
    """Lock a limited queue until the transaction ends. None: it is paused, or locked by another process."""
    row = await _LOCK.first(conn, queue=queue, deliveries=WEBHOOK_QUEUE)
    if row is None:
        return None
    plain = {name: row[name] for name in LockedQueue.__struct_fields__ if name != "turn"}
    return LockedQueue(**plain, turn=Turn(row["last_tenant"], row["turn_taken"]))


async def room(conn: Connection, queue: str, lease_ttl: float, limited: bool) -> Room:
    """The room on a locked queue; `limited` counts its running jobs, too. A statement of its own after `lock`."""
    (row,) = await _ROOM.rows(conn, queue=queue, lease_ttl=lease_ttl, limited=limited, internal=list(INTERNAL_TYPES))
    return struct(Room, row)


async def take_back(conn: Connection, queue: str, lease_ttl: float, limit: int) -> int:
    """Put up to `limit` admitted rows back on hold that no waiting lease request can take. The caller commits."""
    return await _TAKE_BACK.count(conn, queue=queue, lease_ttl=lease_ttl, limit=limit, internal=list(INTERNAL_TYPES))


async def pass_on(conn: Connection, queue: str, turn: Turn, now: datetime, counts: float | None) -> None:
    """Continue after this turn; the last start counts at `counts` s from `now` (None: no rate). The caller commits."""
    await _PASS_ON.run(conn, queue=queue, last_tenant=turn.tenant, taken=turn.taken, now=now, counts=counts)
