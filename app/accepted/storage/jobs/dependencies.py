"""Dependencies between jobs, met or broken by the end of a job, in the transaction that ends it.

That transaction goes along a bounded number of edges. What it leaves is rows of `unfinished_ends`, from which the
scheduler goes on: a job that succeeded, with the last waiting job that was reached, or one that did not, without.

An edge of a workflow (`on_success`) stays when it is met, because results are read along it. An edge of a line
(`accepted.storage.jobs.ordering`) is deleted when it is met, because the job before may be retried and end again: while
it exists, the job before has not ended, or it ended before its turn.

Waiting jobs are found by their outbox rows on hold. Rows are locked in the order of cancel and expiry: outbox, then
jobs, each by id. The recursive steps are written so that PostgreSQL can only use an index (LATERAL with OFFSET, scalar
subqueries): it plans joins as a scan of all jobs for each link of a chain.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec

from accepted.storage import queues
from accepted.storage.db.notifications import ANNOUNCE
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.holding import ORDERED
from accepted.storage.jobs.cancellation import CHANGE_COLUMNS, StatusChange, status_change

BATCH_SIZE = 5_000
"""Places in lines that one statement passes: about 50 ms. A line may be longer than its timeout allows."""

MAX_BROKEN = 2_000
"""Edges that one statement breaks: about 100 ms. A workflow may have fifty times as many."""

MAX_MET = 5_000
"""Edges that one statement meets: about 150 ms. Ten workflows whose first jobs succeed at once have 100,000."""

MAX_TAKEN = 500
"""Jobs from which one round goes on."""

_LOCKED = """
    waiting AS MATERIALIZED (
        SELECT o.job_id FROM outbox o WHERE o.on_hold AND o.job_id IN (SELECT job_id FROM {found})
        ORDER BY o.job_id FOR UPDATE
    ), locked AS MATERIALIZED (
        SELECT j.id FROM jobs j JOIN waiting w ON w.job_id = j.id WHERE j.status = 'blocked'
        ORDER BY j.id FOR NO KEY UPDATE OF j
    )
"""

_CANCEL_BEHIND = Statement(f"""
WITH RECURSIVE behind AS (
    SELECT needs, job_id FROM dependencies WHERE needs = ANY(CAST(:ended AS uuid[])) AND on_success AND NOT broken
    UNION
    SELECT d.needs, d.job_id FROM behind b
    CROSS JOIN LATERAL (
        SELECT * FROM dependencies e WHERE e.needs = b.job_id AND e.on_success AND NOT e.broken OFFSET 0
    ) AS d
    WHERE (SELECT j.status FROM jobs j WHERE j.id = b.job_id) = 'blocked'
), reached AS MATERIALIZED (
    SELECT needs, job_id FROM behind LIMIT CAST(:limit AS int4)
), {_LOCKED.format(found="reached")}, taken AS (
    DELETE FROM outbox o USING locked l WHERE o.job_id = l.id
), why AS (
    SELECT DISTINCT ON (b.job_id) b.job_id, b.needs, concat_ws(' ', 'needed job', n.ref, b.needs, 'which is',
        CASE WHEN n.status = 'blocked' THEN 'cancelled' ELSE n.status END) AS message
    FROM reached b JOIN jobs n ON n.id = b.needs ORDER BY b.job_id, b.needs
), moved AS (
    UPDATE jobs j SET status = 'cancelled', finished_at = now(), cancelled_by = y.needs,
        error = json_build_object('class', 'cancelled', 'message', y.message, 'attempt', j.attempt)
    FROM locked l JOIN why y ON y.job_id = l.id
    WHERE j.id = l.id AND j.status = 'blocked'
    RETURNING {CHANGE_COLUMNS}
), broken AS (
    UPDATE dependencies d SET broken = true FROM reached b
    WHERE d.needs = b.needs AND d.job_id = b.job_id AND d.on_success
)
SELECT m.*, r.edges, {ANNOUNCE.format(rows="moved")}
FROM (SELECT count(*) AS edges FROM reached) AS r LEFT JOIN moved m ON true
""")
"""One statement, because the recursion must see which jobs were blocked before it, and change only those. It breaks the
edges along which it goes, nearest first, up to `limit`; those that it does not reach stay whole.
"""

_LEAVE = Statement("""
INSERT INTO unfinished_ends (job_id, batch_id)
SELECT j.id, j.batch_id FROM jobs j WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.has_dependents
  AND (SELECT d.needs FROM dependencies d WHERE d.needs = j.id AND d.on_success AND NOT d.broken LIMIT 1) IS NOT NULL
ON CONFLICT (job_id) DO UPDATE SET after = excluded.after
""")

_TAKE = Statement("""
DELETE FROM unfinished_ends WHERE job_id IN (
    SELECT job_id FROM unfinished_ends ORDER BY job_id LIMIT :limit FOR UPDATE SKIP LOCKED
) RETURNING job_id, after
""")

_HOLD = Statement("""
WITH workflows AS MATERIALIZED (
    SELECT batch_id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND batch_id IS NOT NULL
), seen AS MATERIALIZED (
    SELECT job_id FROM unfinished_ends WHERE batch_id IN (SELECT batch_id FROM workflows)
), locked AS MATERIALIZED (
    SELECT u.job_id FROM unfinished_ends u JOIN seen s ON s.job_id = u.job_id ORDER BY u.job_id FOR UPDATE OF u
)
SELECT (SELECT count(*) FROM seen) = (SELECT count(*) FROM locked) AS all_held
""")
"""False if a row was gone when its lock came free: a round has ended meanwhile, and may have written others."""

_DROP = Statement("DELETE FROM unfinished_ends WHERE job_id = ANY(CAST(:ids AS uuid[]))")

_RELEASE = Statement(f"""
WITH RECURSIVE line AS (
    SELECT d.needs, d.job_id, 1 AS place FROM dependencies d
    WHERE d.needs = ANY(CAST(:ended AS uuid[])) AND NOT d.on_success
      AND NOT EXISTS (SELECT 1 FROM dependencies e WHERE e.job_id = d.needs AND NOT e.on_success)
    UNION
    SELECT d.needs, d.job_id, l.place + 1 FROM line l
    CROSS JOIN LATERAL (SELECT * FROM dependencies e WHERE e.needs = l.job_id AND NOT e.on_success OFFSET 0) AS d
    WHERE (SELECT j.status FROM jobs j WHERE j.id = l.job_id) IS DISTINCT FROM 'blocked'
      AND l.place < CAST(:limit AS int4)
), succeeded AS (
    SELECT * FROM unnest(CAST(:succeeded AS uuid[]), CAST(:afters AS uuid[])) AS s(id, after)
), reached AS MATERIALIZED (
    SELECT d.needs, d.job_id FROM succeeded s CROSS JOIN LATERAL (
        SELECT * FROM dependencies e WHERE e.needs = s.id AND e.job_id > s.after AND e.on_success
        ORDER BY e.job_id LIMIT CAST(:edges AS int4)
    ) AS d LIMIT CAST(:edges AS int4)
), left_over AS (
    INSERT INTO unfinished_ends (job_id, batch_id, after)
    SELECT s.id, (SELECT j.batch_id FROM jobs j WHERE j.id = s.id),
           COALESCE((SELECT r.job_id FROM reached r WHERE r.needs = s.id ORDER BY r.job_id DESC LIMIT 1), s.after)
    FROM succeeded s WHERE (SELECT count(*) FROM reached) >= CAST(:edges AS int4)
    ON CONFLICT (job_id) DO UPDATE SET after = excluded.after
), moved_on AS (
    DELETE FROM dependencies d USING line l WHERE d.needs = l.needs AND d.job_id = l.job_id AND NOT d.on_success
), met AS MATERIALIZED (
    SELECT job_id, count(*) AS edges FROM (
        SELECT job_id FROM line UNION ALL SELECT job_id FROM reached
    ) AS each GROUP BY job_id
), {_LOCKED.format(found="met")}, moved AS (
    UPDATE jobs j SET blockers = j.blockers - m.edges, status = CASE
        WHEN j.blockers > m.edges THEN 'blocked' WHEN j.run_at > now() THEN 'scheduled' ELSE 'queued' END
    FROM locked l JOIN met m ON m.job_id = l.id
    WHERE j.id = l.id AND j.status = 'blocked'
    RETURNING j.id, j.status, j.queue, j.run_at
), free AS (
    SELECT * FROM moved WHERE status <> 'blocked'
), due AS (
    UPDATE outbox o SET
        on_hold = f.status = 'queued' AND f.queue = ANY({queues.LIMITED}), due_at = GREATEST(f.run_at, now()),
        published = f.status = 'queued' AND :published AND f.queue <> ALL({queues.LIMITED}) AND NOT {ORDERED}
    FROM free f WHERE o.job_id = f.id RETURNING o.on_hold
)
SELECT id, queue, {ANNOUNCE.format(rows="free")},
       CASE WHEN EXISTS (SELECT 1 FROM due WHERE on_hold) THEN {queues.NOTIFY_LIMITER} END AS limiter_notified
FROM free
UNION ALL
SELECT l.job_id, NULL, NULL, NULL FROM line l
WHERE (l.place = CAST(:limit AS int4) OR (SELECT j.status FROM jobs j WHERE j.id = l.job_id) = 'blocked')
  AND l.job_id NOT IN (SELECT id FROM moved)
""")
"""One statement, because an edge is met, counted and deleted by the same snapshot.

The edges of the jobs that succeeded are met in order, up to a number of them. The next one of `unfinished_ends` goes on
after the last that was met.

A line moves from its head: a job that was cancelled further back passes the turn on when the turn reaches it. Rows
without a queue are the jobs from which the caller goes on: the last of `limit` places that were passed, and a job that
was blocked when the statement began and cancelled while the statement waited for its row.
"""


class Unfinished(msgspec.Struct, frozen=True):
    """Jobs that have ended, and from which not everything that waits for them was reached yet: those that ended without
    success, and those that succeeded, each with the last waiting job that was reached."""

    unsuccessful: list[UUID]
    succeeded: dict[UUID, UUID]


class Released(msgspec.Struct, frozen=True):
    """The queues of the released jobs, and the jobs in a line that still have to pass the turn on."""

    queues: set[str]
    passed_by: list[UUID]


async def cancel_behind(conn: Connection, ended: Sequence[UUID]) -> list[StatusChange]:
    """blocked -> cancelled for the jobs that need the success of a job in `ended`, directly or through others.

    At most `MAX_BROKEN` edges are followed. What is left is written down for `take_unfinished`, in this transaction,
    which has ended the jobs in `ended`, without success, or has taken them. The caller commits.
    """
    rows = await _CANCEL_BEHIND.rows(conn, ended=list(ended), limit=MAX_BROKEN)
    cancelled = [status_change(row) for row in rows if row["id"] is not None]
    if rows[0]["edges"] >= MAX_BROKEN:
        await _LEAVE.run(conn, ids=[*ended, *(one.job_id for one in cancelled if one.has_dependents)])
    return cancelled


async def take_unfinished(conn: Connection) -> Unfinished | None:
    """What `cancel_behind` and `release` have left, to be passed to them again; None if there is nothing.

    Nobody else takes the same meanwhile. The caller commits.
    """
    rows = await _TAKE.rows(conn, limit=MAX_TAKEN)
    unsuccessful = [row["job_id"] for row in rows if row["after"] is None]
    succeeded = {row["job_id"]: row["after"] for row in rows if row["after"] is not None}
    return Unfinished(unsuccessful, succeeded) if rows else None


async def hold_unfinished(conn: Connection, ids: Sequence[UUID]) -> None:
    """Nobody takes what is unfinished in the workflows of these jobs until this transaction ends."""
    while not await _HOLD.value(conn, ids=list(ids)):
        pass


async def drop_unfinished(conn: Connection, ids: Sequence[UUID]) -> None:
    """These jobs run again: what waits for them is not cancelled any more. The caller commits."""
    await _DROP.run(conn, ids=list(ids))


async def release(conn: Connection, ended: Sequence[UUID], succeeded: Mapping[UUID, UUID], published: bool) -> Released:
    """blocked -> queued or scheduled for jobs whose last unmet edge led to one of `ended`. The caller commits.

    `succeeded` are those that succeeded, each with the job behind which its edges are met, at most `MAX_MET` in all;
    what is left is written down for `take_unfinished`. `published`: outbox rows are written as published. The jobs in
    `passed_by` have ended, too: the caller calls again with them, in the same transaction.
    """
    rows = await _RELEASE.rows(
        conn,
        ended=list(ended),
        succeeded=list(succeeded),
        afters=list(succeeded.values()),
        published=published,
        limit=max(1, BATCH_SIZE // max(1, len(ended))),
        edges=MAX_MET,
    )
    released = {row["queue"] for row in rows if row["queue"] is not None}
    return Released(released, [row["id"] for row in rows if row["queue"] is None])
