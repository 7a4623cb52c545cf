"""Rows of limited queues: which wait for room, which go back to waiting, and when none has to wait any more.

The design is in docs/waiting.md.
"""

from accepted.domain.job import DEFAULT_PRIORITY, WEBHOOK_QUEUE
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.queue_tenants import CAPPED, SHARED

BACK_ON_HOLD = """, not_started AS (
    UPDATE queues SET
        last_start = last_start - (SELECT count(*) FROM {rows}) * rate_per / NULLIF(rate_jobs, 0) * interval '1 second'
    WHERE name = :queue AND rate_jobs IS NOT NULL
)
UPDATE outbox o SET on_hold = true, admitted = false, published = false, due_at = j.run_at
FROM jobs j WHERE j.id = o.job_id AND o.job_id = ANY(ARRAY(SELECT job_id FROM {rows}))
"""
"""Puts the admitted `rows` of :queue back on hold, each in its old place: under a rate they do not count as starts.

Follows the CTE `rows`. The caller has locked the queue.
"""

UNCLAIMED = 5.0
"""Seconds after which a row that was set aside, and admitted for somebody who serves it, goes back on hold, if it takes
the room of others."""

COUNTED = f"""(
    q.max_running IS NOT NULL OR q.rate_jobs IS NOT NULL OR q.max_running_per_key IS NOT NULL
    OR q.name = '{WEBHOOK_QUEUE}' OR {SHARED.format(queue="q.name")} OR {CAPPED.format(queue="q.name")}
)"""
"""Whether an admitted row takes the room of others under a limit of `queues q`, or of its tenant, whoever could claim
it."""

UNADMITTED = f"""o.queue = {{queue}} AND o.published AND (
    NOT o.admitted OR {{paused}}
    OR (o.unserved <> '' AND {{counted}} AND o.due_at < now() - interval '{UNCLAIMED} seconds')
)"""
"""The rows of `outbox o` that the limiter puts on hold. {paused} and {counted} tell of the queue."""

ORDERED = f"(o.priority <> {DEFAULT_PRIORITY} OR o.concurrency_key IS NOT NULL)"
"""Whether the row of `outbox o` asks for another order than that of arrival, as `NewJob.ordered`."""

LIMITED_FOR = 60.0
"""Seconds for which a queue stays limited at least: each change costs a write for each row that waits."""

RELEASED = 500
"""A queue on which more jobs wait for room stays limited: they are released in one transaction."""

_ON_HOLD = "FROM outbox o WHERE o.queue = q.name AND o.on_hold AND o.due_at < 'infinity'"

MAY_BE_PLAIN = f"""(
    NOT q.paused AND NOT {COUNTED}
    AND COALESCE(q.limited_at < now() - interval '{LIMITED_FOR} seconds', true)
    AND (SELECT count(*) <= {RELEASED} AND NOT COALESCE(bool_or({ORDERED}), false)
         FROM (SELECT o.priority, o.concurrency_key {_ON_HOLD} LIMIT {RELEASED + 1}) AS o)
)"""
"""Whether the limited `queues q` has no limit, one tenant without one, and no job on hold that asks for an order."""

_MAKE_PLAIN = Statement(f"UPDATE queues q SET limited = false WHERE q.name = :queue AND q.limited AND {MAY_BE_PLAIN}")

_RELEASE = Statement("""
WITH held AS MATERIALIZED (
    SELECT job_id FROM outbox WHERE queue = :queue AND on_hold AND due_at < 'infinity'
        AND NOT EXISTS (SELECT 1 FROM queues WHERE name = :queue AND limited)
    ORDER BY job_id FOR UPDATE
)
UPDATE outbox SET on_hold = false, published = unserved <> '' WHERE job_id = ANY(ARRAY(SELECT job_id FROM held))
""")

_HOLD_UNADMITTED = Statement(f"""
WITH unadmitted AS MATERIALIZED (
    SELECT o.job_id FROM outbox o
    WHERE {
    UNADMITTED.format(
        queue=":queue",
        paused="(SELECT paused FROM queues WHERE name = :queue)",
        counted=f"(SELECT {COUNTED} FROM queues q WHERE q.name = :queue)",
    )
}
    ORDER BY o.unserved, o.priority DESC, o.due_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE outbox SET on_hold = true, admitted = false, published = false
WHERE job_id = ANY(ARRAY(SELECT job_id FROM unadmitted))
""")

_HOLD_ADMITTED = Statement(f"""
WITH admitted AS MATERIALIZED (
    SELECT job_id FROM outbox WHERE queue = :queue AND admitted ORDER BY job_id FOR UPDATE
){BACK_ON_HOLD.format(rows="admitted")}
""")

_WAITS_FOR_ROOM = Statement("""
SELECT EXISTS (
    SELECT 1 FROM queues WHERE name = :name AND limited AND NOT paused
    AND EXISTS (SELECT 1 FROM outbox WHERE queue = :name AND on_hold AND due_at < 'infinity')
)
""")


async def hold_unadmitted(conn: Connection, queue: str, limit: int) -> int:
    """Put up to `limit` unadmitted rows of a limited queue on hold, and return how many. The caller commits.

    Messages that refer to them become stale.
    """
    return await _HOLD_UNADMITTED.count(conn, queue=queue, limit=limit)


async def hold_admitted(conn: Connection, queue: str) -> None:
    """Put what was admitted and not claimed back on hold: a limit changes. The caller has locked the queue."""
    await _HOLD_ADMITTED.run(conn, queue=queue)


async def make_plain(conn: Connection, queue: str) -> bool:
    """limited -> plain, if nothing is left that limits the queue. The relay publishes what waited.

    The caller has locked the queue in an earlier statement, and commits. A statement that read `limited` before that
    commit may put a row on hold after it: the caller releases such rows, too. If it dies, the sampler finds them within
    seconds, and makes the queue limited again (`accepted.storage.queues.limit_again`).
    """
    if not await _MAKE_PLAIN.count(conn, queue=queue):
        return False
    await release(conn, queue)
    return True


async def release(conn: Connection, queue: str) -> int:
    """Let the relay publish the rows that are on hold on a queue that is plain. The caller commits."""
    return await _RELEASE.count(conn, queue=queue)


async def waits_for_room(conn: Connection, name: str) -> bool:
    """Whether the limiter may be about to admit a job of this queue."""
    return bool(await _WAITS_FOR_ROOM.value(conn, name=name))
