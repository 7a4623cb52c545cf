"""Workflow repair: when a job of a workflow runs again, the jobs that were cancelled because of it wait again.

The transaction locks, in id order, these jobs and everything that they need. So nothing that it decides on can end
meanwhile: either it sees an end, or that end sees the repair.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from accepted.storage.db.statements import Connection, Statement
from accepted.storage.jobs.ordering import Line

_BEHIND = """
    behind AS (
        SELECT unnest(CAST(:ids AS uuid[])) AS id
        UNION
        SELECT d.job_id FROM behind b
        CROSS JOIN LATERAL (
            SELECT * FROM dependencies e WHERE e.needs = b.id AND e.on_success AND e.broken OFFSET 0
        ) AS d
        WHERE (SELECT j.status = 'cancelled' AND j.cancelled_by IS NOT NULL FROM jobs j WHERE j.id = d.job_id)
    )
"""
"""Along broken edges, through jobs that were cancelled for one: `cancelled_by` names what they needed. A job that a
client cancelled has none, and stays cancelled."""

_LOCK = Statement(f"""
WITH RECURSIVE {_BEHIND}, concerned AS (
    SELECT id FROM behind
    UNION
    SELECT d.needs FROM dependencies d WHERE d.on_success AND d.job_id IN (SELECT id FROM behind)
)
SELECT 1 FROM jobs j WHERE j.id IN (SELECT id FROM concerned) ORDER BY j.id FOR UPDATE
""")

_WITH_THOSE_BEHIND = Statement(f"""
WITH RECURSIVE {_BEHIND}, kept_back AS (
    SELECT d.job_id AS id FROM dependencies d
    WHERE d.on_success AND d.broken AND d.job_id IN (SELECT id FROM behind) AND d.needs NOT IN (SELECT id FROM behind)
    UNION
    SELECT d.job_id FROM kept_back k
    CROSS JOIN LATERAL (
        SELECT * FROM dependencies e WHERE e.needs = k.id AND e.on_success AND e.broken OFFSET 0
    ) AS d
)
SELECT j.id, j.run_at, j.tenant, j.queue, j.ordering_key FROM jobs j
WHERE j.id IN (SELECT id FROM behind) AND j.id NOT IN (SELECT id FROM kept_back)
ORDER BY j.id
""")

_BROKEN = Statement("""
SELECT concat_ws(' ', 'needs job', n.ref, d.needs, 'which is', n.status)
FROM dependencies d LEFT JOIN jobs n ON n.id = d.needs
WHERE d.job_id = ANY(CAST(:ids AS uuid[])) AND d.on_success AND d.broken ORDER BY d.needs LIMIT 1
""")

_MEND = Statement("""
UPDATE dependencies SET broken = false WHERE needs = ANY(CAST(:ids AS uuid[])) AND on_success AND broken
""")


class Repaired(NamedTuple):
    """A job that waits again; `line` is the line that it has to join again."""

    id: UUID
    run_at: datetime
    line: Line | None


async def lock(conn: Connection, ids: Sequence[UUID]) -> None:
    """Lock these jobs, all jobs that were cancelled behind them, and everything that those need."""
    await _LOCK.run(conn, ids=list(ids))


async def broken(conn: Connection, ids: Sequence[UUID]) -> str | None:
    """In words, one job that one of these needs and that has ended without success."""
    reason: str | None = await _BROKEN.value(conn, ids=list(ids))
    return reason


async def with_those_behind(conn: Connection, ids: Sequence[UUID]) -> list[Repaired]:
    """These jobs, and those that were cancelled only because of them, each after all that it needs.

    A statement of its own after `lock`.
    """
    return [
        Repaired(
            row["id"],
            row["run_at"],
            None if row["ordering_key"] is None else Line(row["tenant"], row["queue"], row["ordering_key"]),
        )
        for row in await _WITH_THOSE_BEHIND.rows(conn, ids=list(ids))
    ]


async def mend(conn: Connection, ids: Sequence[UUID]) -> None:
    """Mark the edges to these jobs as whole, so that what needs them waits again. The caller commits."""
    await _MEND.run(conn, ids=list(ids))
