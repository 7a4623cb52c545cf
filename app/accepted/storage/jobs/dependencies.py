"""Dependencies between jobs, met or broken by the end of a job, in the transaction that ends it.

An edge of a workflow (`on_success`) stays when it is met, because results are read along it. An edge of a line
(`accepted.storage.jobs.ordering`) is deleted when it is met, because the job before may be retried and end again: while
it exists, the job before has not ended, or it ended before its turn.

Waiting jobs are found by their outbox rows on hold. Rows are locked in the order of cancel and expiry: outbox, then
jobs, each by id. The recursive steps are written so that PostgreSQL can only use an index (LATERAL with OFFSET, scalar
subqueries): it plans joins as a scan of all jobs for each link of a chain.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from accepted.storage import queues
from accepted.storage.db.notifications import ANNOUNCE
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.jobs.cancellation import CHANGE_COLUMNS, StatusChange, status_change

BATCH_SIZE = 5_000
"""Places in lines that one statement passes: about 50 ms. A line may be longer than its timeout allows."""

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
    SELECT needs, job_id FROM dependencies WHERE needs = ANY(CAST(:ended AS uuid[])) AND on_success
    UNION
    SELECT d.needs, d.job_id FROM behind b
    CROSS JOIN LATERAL (SELECT * FROM dependencies e WHERE e.needs = b.job_id AND e.on_success OFFSET 0) AS d
    WHERE (SELECT j.status FROM jobs j WHERE j.id = b.job_id) = 'blocked'
), {_LOCKED.format(found="behind")}, taken AS (
    DELETE FROM outbox o USING locked l WHERE o.job_id = l.id
), why AS (
    SELECT DISTINCT ON (b.job_id) b.job_id, b.needs, concat_ws(' ', 'needed job', n.ref, b.needs, 'which is',
        CASE WHEN n.status = 'blocked' THEN 'cancelled' ELSE n.status END) AS message
    FROM behind b JOIN jobs n ON n.id = b.needs ORDER BY b.job_id, b.needs
), moved AS (
    UPDATE jobs j SET status = 'cancelled', finished_at = now(), cancelled_by = y.needs,
        error = json_build_object('class', 'cancelled', 'message', y.message, 'attempt', j.attempt)
    FROM locked l JOIN why y ON y.job_id = l.id
    WHERE j.id = l.id AND j.status = 'blocked'
    RETURNING {CHANGE_COLUMNS}
), broken AS (
    UPDATE dependencies SET broken = true
    WHERE on_success AND needs IN (SELECT unnest(CAST(:ended AS uuid[])) UNION ALL SELECT id FROM moved)
)
SELECT *, {ANNOUNCE.format(rows="moved")} FROM moved
""")
"""One statement, because the recursion must see which jobs were blocked before it, and change only those. It breaks the
edges from the jobs that have ended or that it cancels; other transactions break the edges of theirs.
"""

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
), moved_on AS (
    DELETE FROM dependencies d USING line l WHERE d.needs = l.needs AND d.job_id = l.job_id AND NOT d.on_success
), met AS MATERIALIZED (
    SELECT job_id, count(*) AS edges FROM (
        SELECT job_id FROM line UNION ALL
        SELECT job_id FROM dependencies WHERE needs = ANY(CAST(:succeeded AS uuid[])) AND on_success
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
        published = f.status = 'queued' AND :published AND f.queue <> ALL({queues.LIMITED})
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

A line moves from its head: a job that was cancelled further back passes the turn on when the turn reaches it. Rows
without a queue are the jobs from which the caller goes on: the last of `limit` places that were passed, and a job that
was blocked when the statement began and cancelled while the statement waited for its row.
"""


class Released(msgspec.Struct, frozen=True):
    """The queues of the released jobs, and the jobs in a line that still have to pass the turn on."""

    queues: set[str]
    passed_by: list[UUID]


async def cancel_behind(conn: Connection, ended: Sequence[UUID]) -> list[StatusChange]:
    """blocked -> cancelled for all jobs that need the success of a job in `ended`, directly or through others.

    This transaction has ended the jobs in `ended`, without success. The caller commits.
    """
    return [status_change(row) for row in await _CANCEL_BEHIND.rows(conn, ended=list(ended))]


async def release(conn: Connection, ended: Sequence[UUID], succeeded: Sequence[UUID], published: bool) -> Released:
    """blocked -> queued or scheduled for jobs whose last unmet edge led to one of `ended`. The caller commits.

    `succeeded` are the jobs of `ended` that succeeded; `published`: outbox rows are written as published. The jobs in
    `passed_by` have ended, too: the caller calls again with them, in the same transaction.
    """
    limit = max(1, BATCH_SIZE // max(1, len(ended)))
    rows = await _RELEASE.rows(conn, ended=list(ended), succeeded=list(succeeded), published=published, limit=limit)
    released = {row["queue"] for row in rows if row["queue"] is not None}
    return Released(released, [row["id"] for row in rows if row["queue"] is None])
