"""Room on gated queues: counted from rows that exist anyway, and given to those whose turn it is (docs/waiting.md).

Whoever admits holds the lock on the queue's row, and counts in a statement that begins after he got it: so he sees
what was admitted before. Nothing else makes more of a gated queue run: a claim turns one admitted row into one open
attempt, in one statement.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from app.domain.message import JobRef
from app.storage.direct import Connection, Statement
from app.storage.workers import SERVES

_WAITS = "o.queue = :queue AND o.held AND o.due_at < 'infinity' AND (o.expires_at IS NULL OR o.expires_at > now())"

_STRAYS = "o.queue = {queue} AND o.published AND (NOT o.admitted OR {paused})"

_LOOK = Statement(f"""
SELECT * FROM (
    SELECT q.name, EXISTS (SELECT 1 FROM outbox o WHERE {_STRAYS.format(queue="q.name", paused="q.paused")}) AS strays,
           NOT q.paused
           AND EXISTS (SELECT 1 FROM outbox o WHERE o.queue = q.name AND o.held AND o.due_at < 'infinity') AS waits
    FROM queues q WHERE q.gated
) AS each WHERE strays OR waits ORDER BY name
""")

_HOLD = Statement(f"""
WITH strays AS MATERIALIZED (
    SELECT o.job_id FROM outbox o
    WHERE {_STRAYS.format(queue=":queue", paused="(SELECT paused FROM queues WHERE name = :queue)")}
    ORDER BY o.priority DESC, o.due_at LIMIT :most FOR UPDATE SKIP LOCKED
)
UPDATE outbox SET held = true, admitted = false, published = false
WHERE job_id = ANY(ARRAY(SELECT job_id FROM strays)) RETURNING job_id
""")

_LOCK = Statement("""
SELECT max_running, rate_per / rate_jobs, max_running_per_key, turn,
       CAST(EXTRACT(epoch FROM next_start - clock_timestamp()) AS float8), clock_timestamp()
FROM queues WHERE name = :queue AND gated AND NOT paused FOR UPDATE SKIP LOCKED
""")

_OPEN = """
    FROM attempts t CROSS JOIN LATERAL (SELECT queue, concurrency_key FROM jobs WHERE id = t.job_id OFFSET 0) AS j
    WHERE t.finished_at IS NULL AND j.queue = :queue
"""
"""Open attempts are few and jobs are many: OFFSET 0 keeps the planner from ever reading all jobs for them."""

_ROOM = Statement(f"""
SELECT (
    SELECT CAST(sum(GREATEST(w.slots - (
        SELECT count(*) FROM attempts t WHERE t.worker_id = w.id AND t.finished_at IS NULL
    ), 0)) AS int8) FROM workers w
    WHERE w.slots > 0 AND w.heartbeat_at > now() - CAST(:lease_ttl AS float8) * interval '1 second'
      AND {SERVES}
), (SELECT count(*) FROM outbox o WHERE o.queue = :queue AND o.admitted),
CASE WHEN CAST(:limited AS bool) THEN (SELECT count(*) {_OPEN}) END
""")

_NEXT_KEY = f"""
    SELECT o.concurrency_key FROM outbox o WHERE {_WAITS} AND o.concurrency_key > {{after}}
    ORDER BY o.concurrency_key LIMIT 1
"""

_MEMBER = f"""
    SELECT o.job_id, row_number() OVER (ORDER BY o.priority DESC, o.due_at) AS rank
    FROM outbox o WHERE {_WAITS} AND {{key}} ORDER BY o.priority DESC, o.due_at LIMIT {{most}}
"""

_ADMIT = Statement(f"""
WITH RECURSIVE later(key, place) AS (
    SELECT ({_NEXT_KEY.format(after="COALESCE(CAST(:turn AS text), '')")}), 1
    UNION ALL
    SELECT ({_NEXT_KEY.format(after="l.key")}), l.place + 1
    FROM later l WHERE l.key IS NOT NULL AND l.place < CAST(:steps AS int4)
), earlier(key, place) AS (
    SELECT ({_NEXT_KEY.format(after="''")}), 1 WHERE CAST(:turn AS text) IS NOT NULL
    UNION ALL
    SELECT ({_NEXT_KEY.format(after="e.key")}), e.place + 1
    FROM earlier e WHERE e.key < CAST(:turn AS text) AND e.place < CAST(:steps AS int4)
), ring AS MATERIALIZED (
    SELECT key, place FROM later WHERE key IS NOT NULL
    UNION ALL
    SELECT key, CAST(:steps AS int4) + 1 + place FROM earlier WHERE key <= CAST(:turn AS text)
), share AS MATERIALIZED (
    SELECT CEIL(CAST(:room AS float8) / (1 + count(*))) AS most FROM ring
), busy AS MATERIALIZED (
    SELECT key, count(*) AS n FROM (
        SELECT o.concurrency_key AS key FROM outbox o WHERE o.queue = :queue AND o.admitted
        UNION ALL
        SELECT j.concurrency_key {_OPEN}
    ) AS taken WHERE CAST(:per_key AS int4) IS NOT NULL AND key IS NOT NULL GROUP BY key
), chosen AS (
    SELECT w.job_id, w.rank, r.place FROM ring r LEFT JOIN busy b ON b.key = r.key
    CROSS JOIN LATERAL ({
    _MEMBER.format(
        key="o.concurrency_key = r.key",
        most="GREATEST(LEAST((SELECT most FROM share), CAST(:per_key AS int4) - COALESCE(b.n, 0)), 0)",
    )
}) AS w
    UNION ALL
    SELECT w.job_id, w.rank, CAST(:steps AS int4) + 1
    FROM ({_MEMBER.format(key="o.concurrency_key IS NULL", most="(SELECT most FROM share)")}) AS w
), first AS MATERIALIZED (
    SELECT * FROM chosen ORDER BY rank, place LIMIT :room
), locked AS MATERIALIZED (
    SELECT job_id FROM outbox WHERE job_id = ANY(ARRAY(SELECT job_id FROM first)) AND held AND due_at < 'infinity'
    ORDER BY job_id FOR UPDATE SKIP LOCKED
), admitted AS (
    UPDATE outbox SET
        held = false, admitted = true, published = CAST(:hold AS float8) IS NULL,
        due_at = now() + COALESCE(CAST(:hold AS float8), 0) * interval '1 second'
    WHERE job_id = ANY(ARRAY(SELECT job_id FROM locked))
    RETURNING job_id, attempt, queue, priority, concurrency_key
)
SELECT a.job_id, a.attempt, a.queue, j.type, a.priority, j.traceparent, a.concurrency_key
FROM jobs j JOIN admitted a ON a.job_id = j.id JOIN first f ON f.job_id = a.job_id
WHERE j.id = ANY(ARRAY(SELECT job_id FROM first)) ORDER BY f.rank, f.place
""")
"""The ring of keys is walked from the turn on by a loose index scan, one probe a key, and of each key only its share is
read: what waits behind it costs nothing. Ids go round as arrays, as in `app.storage.outbox`: a join may be planned as a
scan of all that waits."""

_TURN = Statement("""
UPDATE queues SET turn = :turn, next_start = CAST(:now AS timestamptz) + CAST(:wait AS float8) * interval '1 second'
WHERE name = :queue
""")


class Waiting(msgspec.Struct, frozen=True):
    """A gated queue with something to do: `strays` are on the road without being admitted, or while it is paused."""

    queue: str
    strays: bool
    waits: bool


class Limits(msgspec.Struct, frozen=True):
    """What holds for a queue whose row this transaction has locked. `next_start` is in seconds from `now`."""

    max_running: int | None
    interval: float | None
    max_running_per_key: int | None
    turn: str | None
    next_start: float | None
    now: datetime


class Room(msgspec.Struct, frozen=True):
    """`free` slots of the live workers that serve the queue (None: there is no such worker), rows `admitted` and not
    yet claimed, and how many `run`, if that was asked."""

    free: int | None
    admitted: int
    run: int | None


class Admitted(msgspec.Struct, frozen=True):
    """References in the order of their turns, and whose turn was the last."""

    refs: list[JobRef]
    turn: str | None


async def look(conn: Connection) -> list[Waiting]:
    """The gated queues with something to do."""
    return [Waiting(*row) for row in await _LOOK.rows(conn)]


async def hold(conn: Connection, queue: str, most: int) -> int:
    """Hold up to `most` strays of a gated queue; messages that still refer to them are stale. The caller commits."""
    return len(await _HOLD.rows(conn, queue=queue, most=most))


async def lock(conn: Connection, queue: str) -> Limits | None:
    """The limits of a gated queue, which is ours until the transaction ends; None if it is paused, or another's."""
    found = await _LOCK.rows(conn, queue=queue)
    return Limits(*found[0]) if found else None


async def room(conn: Connection, queue: str, lease_ttl: float, limited: bool) -> Room:
    """What there is room for; `limited` asks how many run, too. To be asked after `lock`."""
    (row,) = await _ROOM.rows(conn, queue=queue, lease_ttl=lease_ttl, limited=limited)
    return Room(*row)


async def admit(conn: Connection, queue: str, most: int, limits: Limits, steps: int, hold: float | None) -> Admitted:
    """Admit up to `most` rows of a locked queue, looking at up to `steps` keys. May be fewer than could be.

    They are ours to publish for `hold` seconds, then the relay's; None: they are on the road with the commit.
    """
    rows: Sequence[Sequence[object]] = await _ADMIT.rows(
        conn, queue=queue, room=most, turn=limits.turn, per_key=limits.max_running_per_key, steps=steps, hold=hold
    )
    turn = str(rows[-1][6]) if rows and rows[-1][6] is not None else None
    return Admitted([JobRef(*row[:6]) for row in rows], turn)  # type: ignore[arg-type]


async def pass_on(conn: Connection, queue: str, turn: str | None, now: datetime, wait: float | None) -> None:
    """The next turn comes after `turn`, and the next start `wait` seconds after `now`. The caller commits."""
    await _TURN.rows(conn, queue=queue, turn=turn, now=now, wait=wait)
