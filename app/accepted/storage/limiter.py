"""Room on limited queues: counted from outbox rows and attempts, given round robin over concurrency keys.

The design is in docs/waiting.md. The limiter locks the queue's row and counts in a later statement, so it sees what was
admitted before. Nothing else makes more of a limited queue run: a claim turns one admitted row into one open attempt,
in one statement.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from accepted.domain.job import INTERNAL_TYPES, WEBHOOK_QUEUE
from accepted.domain.network import targets as rules
from accepted.domain.references import JobRef
from accepted.storage.db.statements import Connection, Row, Statement, struct
from accepted.storage.queues import BACK_ON_HOLD, UNADMITTED
from accepted.storage.workers import ALIVE, SERVES

_WAITS = "o.queue = :queue AND o.on_hold AND o.due_at < 'infinity' AND (o.expires_at IS NULL OR o.expires_at > now())"

_SERVED = "(o.unserved = '' OR CAST(:able AS text[]) IS NULL OR o.unserved = ANY(CAST(:able AS text[])))"
"""Whether a row was not set aside, or a worker process with a free slot serves its type (:able)."""

_LIVES = f"w.slots > 0 AND w.ends_at IS NULL AND {ALIVE}"

_WANTED = f"""EXISTS (
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

_LOCK = Statement("""
SELECT max_running, rate_per / rate_jobs AS "interval", max_running_per_key, last_key,
       CAST(EXTRACT(epoch FROM clock_timestamp() - last_start) AS float8) AS since_start, clock_timestamp() AS now,
       name = :deliveries AS deliveries
FROM queues WHERE name = :queue AND limited AND NOT paused FOR UPDATE SKIP LOCKED
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
            ELSE (SELECT count(*) FROM outbox o WHERE o.queue = :queue AND o.admitted AND {_WANTED}) END AS wanted,
       CASE WHEN CAST(:limited AS bool) THEN (SELECT count(*) {_OPEN}) END AS run,
       CASE WHEN NOT EXISTS (SELECT 1 FROM free WHERE tenant IS NULL AND slots > 0 AND types IS NULL)
            THEN ARRAY(SELECT type FROM able WHERE slots > 0 ORDER BY type) END AS able,
       ARRAY(SELECT slots FROM able WHERE slots > 0 ORDER BY type) AS able_slots
FROM waiting
""")

_TAKE_BACK = Statement(f"""
WITH idle AS MATERIALIZED (
    SELECT o.job_id FROM outbox o WHERE o.queue = :queue AND o.admitted AND NOT {_WANTED}
    ORDER BY o.priority, o.due_at DESC LIMIT :limit FOR UPDATE SKIP LOCKED
){BACK_ON_HOLD.format(rows="idle")}
""")

_NEXT_KEY = """
    SELECT o.concurrency_key FROM outbox o WHERE {waits} AND o.concurrency_key > {after}
    ORDER BY o.concurrency_key LIMIT 1
"""

_MEMBER = """
    SELECT o.job_id, o.unserved, row_number() OVER (ORDER BY o.priority DESC, o.due_at) AS rank
    FROM outbox o WHERE {waits} AND {key} ORDER BY o.priority DESC, o.due_at LIMIT {limit}
"""

_RECEIVER_LIMIT = f"""CASE WHEN CAST(:deliveries AS bool) THEN GREATEST({rules.LEAST_AT_ONCE}, CAST({rules.BUDGET}
    / GREATEST(COALESCE(v.seconds, {rules.UNKNOWN}), b.age, {rules.BUDGET / rules.MOST_AT_ONCE}) AS int4)) END"""
"""By how long the receiver took to answer, and by the age of the oldest delivery that it has not answered yet."""


def _admit(waits: str, fits: str) -> Statement:
    return Statement(f"""
WITH RECURSIVE later(key, place) AS (
    SELECT ({_NEXT_KEY.format(waits=waits, after="COALESCE(CAST(:last_key AS text), '')")}), 1
    UNION ALL
    SELECT ({_NEXT_KEY.format(waits=waits, after="l.key")}), l.place + 1
    FROM later l WHERE l.key IS NOT NULL AND l.place < CAST(:steps AS int4)
), earlier(key, place) AS (
    SELECT ({_NEXT_KEY.format(waits=waits, after="''")}), 1 WHERE CAST(:last_key AS text) IS NOT NULL
    UNION ALL
    SELECT ({_NEXT_KEY.format(waits=waits, after="e.key")}), e.place + 1
    FROM earlier e WHERE e.key < CAST(:last_key AS text) AND e.place < CAST(:steps AS int4)
), ring AS MATERIALIZED (
    SELECT key, place FROM later WHERE key IS NOT NULL
    UNION ALL
    SELECT key, CAST(:steps AS int4) + 1 + place FROM earlier WHERE key <= CAST(:last_key AS text)
), share AS MATERIALIZED (
    SELECT CEIL(CAST(:room AS float8) / (1 + count(*))) AS size FROM ring
), busy AS MATERIALIZED (
    SELECT key, count(*) AS n, CAST(EXTRACT(epoch FROM clock_timestamp() - min(since)) AS float8) AS age FROM (
        SELECT o.concurrency_key AS key, NULL AS since FROM outbox o WHERE o.queue = :queue AND o.admitted
        UNION ALL
        SELECT j.concurrency_key, t.started_at {_OPEN}
    ) AS taken
    WHERE (CAST(:per_key AS int4) IS NOT NULL OR CAST(:deliveries AS bool)) AND key IS NOT NULL GROUP BY key
), chosen AS (
    SELECT w.job_id, w.unserved, w.rank, r.place FROM ring r LEFT JOIN busy b ON b.key = r.key
    LEFT JOIN receivers v ON CAST(:deliveries AS bool) AND v.key = r.key
    CROSS JOIN LATERAL ({
        _MEMBER.format(
            waits=waits,
            key="o.concurrency_key = r.key",
            limit=f'''GREATEST(LEAST((SELECT size FROM share),
                LEAST(CAST(:per_key AS int4), {_RECEIVER_LIMIT}) - COALESCE(b.n, 0)), 0)''',
        )
    }) AS w
    UNION ALL
    SELECT w.job_id, w.unserved, w.rank, CAST(:steps AS int4) + 1
    FROM ({_MEMBER.format(waits=waits, key="o.concurrency_key IS NULL", limit="(SELECT size FROM share)")}) AS w
), first AS MATERIALIZED (
    SELECT job_id, rank, place FROM (
        SELECT *, row_number() OVER (PARTITION BY unserved ORDER BY rank, place) AS nth FROM chosen
    ) AS each WHERE {fits} ORDER BY rank, place LIMIT :room
), locked AS MATERIALIZED (
    SELECT job_id FROM outbox WHERE job_id = ANY(ARRAY(SELECT job_id FROM first)) AND on_hold AND due_at < 'infinity'
    ORDER BY job_id FOR UPDATE SKIP LOCKED
), admitted AS (
    UPDATE outbox SET
        on_hold = false, admitted = true, published = CAST(:hold AS float8) IS NULL OR unserved <> '',
        due_at = now() + COALESCE(CAST(:hold AS float8), 0) * interval '1 second'
    WHERE job_id = ANY(ARRAY(SELECT job_id FROM locked))
    RETURNING job_id, attempt, queue, priority, concurrency_key
)
SELECT a.job_id, a.attempt, a.queue, j.type, a.priority, j.traceparent, a.concurrency_key
FROM jobs j JOIN admitted a ON a.job_id = j.id JOIN first f ON f.job_id = a.job_id
WHERE j.id = ANY(ARRAY(SELECT job_id FROM first)) ORDER BY f.rank, f.place
""")


_FITS = """(unserved = '' OR CAST(:able AS text[]) IS NULL
        OR nth <= (CAST(:able_slots AS int4[]))[array_position(CAST(:able AS text[]), unserved)])"""
"""No more rows that were set aside than free slots of those who serve their type: others need the rest of the room."""

_ADMIT = _admit(f"{_WAITS} AND {_SERVED}", _FITS)
"""One statement, because what is admitted must be what is counted. The round robin visits the keys after `last_key` by
a loose index scan, one probe a key, and reads only the share of each key: jobs behind it cost nothing. Ids are passed
on as arrays, as in `accepted.storage.jobs.outbox`: PostgreSQL may plan a join as a scan of all waiting rows.
"""

_ADMIT_WANTED = _admit(f"{_WAITS} AND {_WANTED}", "true")
"""Skips, one by one, rows that no lease request can take, as the lease claim does."""

_PASS_ON = Statement("""
UPDATE queues SET
    last_key = :last_key,
    last_start = COALESCE(CAST(:now AS timestamptz) + CAST(:counts AS float8) * interval '1 second', last_start)
WHERE name = :queue
""")


class Waiting(msgspec.Struct, frozen=True):
    """A limited queue with work for the limiter: rows published but `unadmitted` (or paused), or rows that wait."""

    queue: str
    unadmitted: bool
    waits: bool


class LockedQueue(msgspec.Struct, frozen=True):
    """The limits of a queue whose row this transaction has locked. Its last start was `since_start` seconds ago."""

    max_running: int | None
    interval: float | None
    max_running_per_key: int | None
    last_key: str | None
    since_start: float | None
    now: datetime
    deliveries: bool

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


class Admitted(msgspec.Struct, frozen=True):
    """References in the order in which they were admitted, and the key that was served last."""

    refs: list[JobRef]
    last_key: str | None


async def poll(conn: Connection) -> list[Waiting]:
    """The limited queues with something to do."""
    return [struct(Waiting, row) for row in await _POLL.rows(conn)]


async def lock(conn: Connection, queue: str) -> LockedQueue | None:
    """Lock a limited queue until the transaction ends. None: it is paused, or locked by another process."""
    row = await _LOCK.first(conn, queue=queue, deliveries=WEBHOOK_QUEUE)
    return None if row is None else struct(LockedQueue, row)


async def room(conn: Connection, queue: str, lease_ttl: float, limited: bool) -> Room:
    """The room on a locked queue; `limited` counts its running jobs, too. A statement of its own after `lock`."""
    (row,) = await _ROOM.rows(conn, queue=queue, lease_ttl=lease_ttl, limited=limited, internal=list(INTERNAL_TYPES))
    return struct(Room, row)


async def take_back(conn: Connection, queue: str, lease_ttl: float, limit: int) -> int:
    """Put up to `limit` admitted rows back on hold that no waiting lease request can take. The caller commits."""
    return await _TAKE_BACK.count(conn, queue=queue, lease_ttl=lease_ttl, limit=limit, internal=list(INTERNAL_TYPES))


async def admit(
    conn: Connection, queue: str, limit: int, locked: LockedQueue, room: Room, steps: int, hold: float | None,
    leases: float | None = None,
) -> Admitted:  # fmt: skip
    """Admit up to `limit` rows of a locked queue, reading up to `steps` keys: it may be fewer than there is room for.

    The caller publishes them within `hold` seconds, else the relay does; None: its commit publishes them. Rows that
    were set aside are admitted as far as `room` has slots for their types, and claimed from the ledger. With `leases`,
    the time to live of a lease, only rows that a waiting lease request can take.
    """
    values: dict[str, object] = {
        "queue": queue, "room": limit, "last_key": locked.last_key, "per_key": locked.max_running_per_key,
        "steps": steps, "hold": hold, "deliveries": locked.deliveries,
    }  # fmt: skip
    if leases is None:
        return _admitted(await _ADMIT.rows(conn, **values, able=room.able, able_slots=room.able_slots))
    return _admitted(await _ADMIT_WANTED.rows(conn, **values, lease_ttl=leases, internal=list(INTERNAL_TYPES)))


async def pass_on(conn: Connection, queue: str, last_key: str | None, now: datetime, counts: float | None) -> None:
    """Continue after `last_key`; the last start counts at `counts` s from `now` (None: no rate). The caller commits."""
    await _PASS_ON.run(conn, queue=queue, last_key=last_key, now=now, counts=counts)


def _admitted(rows: Sequence[Row]) -> Admitted:
    last_key = rows[-1]["concurrency_key"] if rows else None
    return Admitted([struct(JobRef, row) for row in rows], last_key)
