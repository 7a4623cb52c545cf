"""Edges between jobs, met or broken by the end of a job, in the transaction that ends it.

An edge that asks for success stays once it is met: results are handed on along it, and a success is for good. One that
asks only for an end goes with it, for that job may be retried and end again. So while an edge of a line
(`accepted.storage.jobs.ordering`) is there, it is not met: what it needs has not ended, or it ended without having had
its turn.

Whoever waits is found by its held outbox row, and rows are locked as a cancel and expiry lock them: outbox, then jobs,
each in id order. The steps of a recursion are written so that each can only be a look-up in an index (a LATERAL with
OFFSET, a scalar subquery): as joins they are planned as a scan of all jobs for every link of a chain.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from accepted.domain.transitions import NEEDED
from accepted.storage import queues
from accepted.storage.db.notifications import ANNOUNCE
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.jobs.cancellation import CHANGE_COLUMNS, StatusChange

BATCH_SIZE = 5_000
"""Places in lines that one statement passes on: about 50 ms. More could be ahead than its deadline allows."""

_LOCKED = """
    waiting AS MATERIALIZED (
        SELECT o.job_id FROM outbox o WHERE o.held AND o.job_id IN (SELECT job_id FROM {found})
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
    SELECT DISTINCT ON (b.job_id) b.job_id, concat_ws(' ', '{NEEDED}', n.ref, b.needs, 'which is',
        CASE WHEN n.status = 'blocked' THEN 'cancelled' ELSE n.status END) AS message
    FROM behind b JOIN jobs n ON n.id = b.needs ORDER BY b.job_id, b.needs
), moved AS (
    UPDATE jobs j SET status = 'cancelled', finished_at = now(),
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
"""Edges out of jobs that others have ended are theirs to break: `broken` says that its own `needs` has failed it."""

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
        held = f.status = 'queued' AND f.queue = ANY({queues.LIMITED}), due_at = GREATEST(f.run_at, now()),
        published = f.status = 'queued' AND :published AND f.queue <> ALL({queues.LIMITED})
    FROM free f WHERE o.job_id = f.id RETURNING o.held
)
SELECT id, queue, {ANNOUNCE.format(rows="free")},
       CASE WHEN EXISTS (SELECT 1 FROM due WHERE held) THEN {queues.NOTIFY} END
FROM free
UNION ALL
SELECT l.job_id, NULL, NULL, NULL FROM line l
WHERE (l.place = CAST(:limit AS int4) OR (SELECT j.status FROM jobs j WHERE j.id = l.job_id) = 'blocked')
  AND l.job_id NOT IN (SELECT id FROM moved)
""")
"""A line moves from its head: a job that was cancelled further back passes the turn on when it comes to it. For another
round are returned the last of `limit` places that were passed, and one that was blocked when the statement began, and
cancelled while that waited for its row.
"""


class Released(msgspec.Struct, frozen=True):
    """The queues of those who wait no longer, and who has still to pass on the turn in a line."""

    queues: set[str]
    passed_by: list[UUID]


async def cancel_behind(conn: Connection, ended: Sequence[UUID]) -> list[StatusChange]:
    """blocked -> cancelled for all that needs the success of a job that has `ended` without it, however far behind.

    `ended` is what this transaction has ended. The caller commits.
    """
    return [StatusChange(*row[:5]) for row in await _CANCEL_BEHIND.rows(conn, ended=list(ended))]


async def release(conn: Connection, ended: Sequence[UUID], succeeded: Sequence[UUID], published: bool) -> Released:
    """blocked -> queued or scheduled for those whose last unmet edge was to one of these. The caller commits.

    `succeeded` are those of `ended` that did; `published`: their outbox rows are written as published. The jobs in
    `passed_by` have ended, too: the caller goes on from there, in the same transaction.
    """
    limit = max(1, BATCH_SIZE // max(1, len(ended)))
    rows = await _RELEASE.rows(conn, ended=list(ended), succeeded=list(succeeded), published=published, limit=limit)
    return Released({row[1] for row in rows if row[1] is not None}, [row[0] for row in rows if row[1] is None])
