"""Edges that an unsuccessful end has broken, and the jobs that were cancelled for it, when that job is to run again.

Whoever mends locks, in id order, the jobs behind and all that those need. So nothing that he decides on can end
meanwhile: an end is seen by him, or sees what he has done.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.transitions import NEEDED
from accepted.storage.jobs.ordering import Line

_BEHIND = f"""
    behind AS (
        SELECT unnest(CAST(:ids AS uuid[])) AS id
        UNION
        SELECT d.job_id FROM behind b
        CROSS JOIN LATERAL (
            SELECT * FROM dependencies e WHERE e.needs = b.id AND e.on_success AND e.broken OFFSET 0
        ) AS d
        WHERE (SELECT j.status = 'cancelled' AND starts_with(j.error->>'message', '{NEEDED} ')
               FROM jobs j WHERE j.id = d.job_id)
    )
"""
"""Along broken edges, through jobs that were cancelled for one: a job that somebody cancelled himself stays so."""

_LOCK = text(f"""
WITH RECURSIVE {_BEHIND}, concerned AS (
    SELECT id FROM behind
    UNION
    SELECT d.needs FROM dependencies d WHERE d.on_success AND d.job_id IN (SELECT id FROM behind)
)
SELECT 1 FROM jobs j WHERE j.id IN (SELECT id FROM concerned) ORDER BY j.id FOR UPDATE
""")

_WITH_THOSE_BEHIND = text(f"""
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

_BROKEN = text("""
SELECT concat_ws(' ', 'needs job', n.ref, d.needs, 'which is', n.status)
FROM dependencies d LEFT JOIN jobs n ON n.id = d.needs
WHERE d.job_id = ANY(CAST(:ids AS uuid[])) AND d.on_success AND d.broken ORDER BY d.needs LIMIT 1
""")

_MEND = text("""
UPDATE dependencies SET broken = false WHERE needs = ANY(CAST(:ids AS uuid[])) AND on_success AND broken
""")


class Member(NamedTuple):
    """A job that waits again; `line` is where it has to join again."""

    id: UUID
    run_at: datetime
    line: Line | None


async def lock(conn: AsyncConnection, ids: Sequence[UUID]) -> None:
    """Lock these jobs, whatever was cancelled behind them, and all that those need."""
    await conn.execute(_LOCK, {"ids": list(ids)})


async def broken(conn: AsyncConnection, ids: Sequence[UUID]) -> str | None:
    """What one of these jobs needs and will not get, in words."""
    row = (await conn.execute(_BROKEN, {"ids": list(ids)})).first()
    return None if row is None else str(row[0])


async def with_those_behind(conn: AsyncConnection, ids: Sequence[UUID]) -> list[Member]:
    """These jobs, and those that were cancelled for them and for nobody else, each after all that it needs.

    To be asked by a statement after `lock`.
    """
    rows = await conn.execute(_WITH_THOSE_BEHIND, {"ids": list(ids)})
    return [Member(row[0], row[1], None if row[4] is None else Line(*row[2:5])) for row in rows]


async def mend(conn: AsyncConnection, ids: Sequence[UUID]) -> None:
    """What waits for these jobs may hope again. The caller commits."""
    await conn.execute(_MEND, {"ids": list(ids)})
