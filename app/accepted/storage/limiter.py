"""Limited queues with work for the limiter, and the lock under which it counts room and admits.

The design is in docs/waiting.md. The limiter locks the queue's row and counts the room (`accepted.storage.room`) in a
later statement, so it sees what was admitted before; `accepted.storage.admission` gives it. Nothing else makes more of
a limited queue run: a claim turns one admitted row into one open attempt, in one statement.
"""

from datetime import datetime

import msgspec

from accepted.domain.job import WEBHOOK_QUEUE
from accepted.domain.turns import Turn
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.holding import COUNTED, MAY_BE_PLAIN, UNADMITTED
from accepted.storage.queue_tenants import CAPPED, SHARED
from accepted.storage.room import Room
from accepted.storage.turns import NEXT

WAITS = "o.queue = :queue AND o.on_hold AND o.due_at < 'infinity' AND (o.expires_at IS NULL OR o.expires_at > now())"

_POLL = Statement(f"""
SELECT * FROM (
    SELECT q.name AS queue,
           EXISTS (SELECT 1 FROM outbox o WHERE {
    UNADMITTED.format(queue="q.name", paused="q.paused", counted=COUNTED)
}) AS unadmitted,
           NOT q.paused
           AND EXISTS (SELECT 1 FROM outbox o WHERE o.queue = q.name AND o.on_hold AND o.due_at < 'infinity') AS waits,
           {MAY_BE_PLAIN} AS may_be_plain
    FROM queues q WHERE q.limited
) AS each WHERE unadmitted OR waits OR may_be_plain ORDER BY queue
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

_PASS_ON = Statement("""
UPDATE queues SET
    last_tenant = :last_tenant, turn_taken = :taken,
    last_start = COALESCE(CAST(:now AS timestamptz) + CAST(:counts AS float8) * interval '1 second', last_start)
WHERE name = :queue
""")


class Waiting(msgspec.Struct, frozen=True):
    """A limited queue with work for the limiter: rows published but `unadmitted` (or paused), or rows that wait, or no
    reason to be limited."""

    queue: str
    unadmitted: bool
    waits: bool
    may_be_plain: bool


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

    @property
    def counts_admitted(self) -> bool:
        """Whether an admitted row takes the room of others under a limit, whoever could claim it."""
        return self.counts_running or self.interval is not None or self.shared or self.capped

    def left(self, room: Room) -> int:
        """How many more jobs may be admitted, by slots and by the limits that count running jobs."""
        left, running = room.for_any + room.for_wanted, room.admitted + (room.run or 0)
        return left if self.max_running is None else min(left, self.max_running - running)


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


async def pass_on(conn: Connection, queue: str, turn: Turn, now: datetime, counts: float | None) -> None:
    """Continue after this turn; the last start counts at `counts` s from `now` (None: no rate). The caller commits."""
    await _PASS_ON.run(conn, queue=queue, last_tenant=turn.tenant, taken=turn.taken, now=now, counts=counts)
