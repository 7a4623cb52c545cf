"""Lines: the jobs of one (tenant, queue, ordering key), each of which waits for the end of the one before.

The line's row names its last job. Who adds to a line holds that row for himself, and who ends a job of it shares it
with others who do: so the one sees every edge that the other has committed, and neither has to lock the other's jobs.
Rows are locked in the order of their names.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from accepted.storage.db.statements import Connection, Statement

_NAMES = "unnest(CAST(:tenants AS text[]), CAST(:queues AS text[]), CAST(:keys AS text[]))"

_LOCK = Statement("""
INSERT INTO ordering_keys AS k (tenant, queue, key, job_id)
SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:queues AS text[]), CAST(:keys AS text[]), CAST(:ids AS uuid[]))
    AS n(tenant, queue, key, job_id) ORDER BY tenant, queue, key
ON CONFLICT (tenant, queue, key) DO UPDATE SET job_id = k.job_id
""")

_BUSY = Statement(f"""
SELECT k.tenant, k.queue, k.key, k.job_id
FROM {_NAMES} AS n(tenant, queue, key) JOIN ordering_keys k USING (tenant, queue, key)
WHERE EXISTS (SELECT 1 FROM jobs j WHERE j.id = k.job_id AND j.finished_at IS NULL)
   OR EXISTS (SELECT 1 FROM dependencies d WHERE d.job_id = k.job_id AND NOT d.on_success)
""")

_APPEND = Statement("""
WITH linked AS (
    INSERT INTO dependencies (needs, job_id, on_success)
    SELECT needs, job_id, false FROM unnest(CAST(:needs AS uuid[]), CAST(:job_ids AS uuid[])) AS e(needs, job_id)
)
UPDATE ordering_keys k SET job_id = n.job_id
FROM unnest(CAST(:tenants AS text[]), CAST(:queues AS text[]), CAST(:keys AS text[]), CAST(:ids AS uuid[]))
    AS n(tenant, queue, key, job_id)
WHERE k.tenant = n.tenant AND k.queue = n.queue AND k.key = n.key
""")

_SHARE = Statement("""
SELECT 1 FROM ordering_keys k
JOIN jobs j ON j.tenant = k.tenant AND j.queue = k.queue AND j.ordering_key = k.key
WHERE j.id = ANY(CAST(:ids AS uuid[]))
ORDER BY k.tenant, k.queue, k.key FOR SHARE OF k
""")

_IN_LINE = Statement("""
SELECT job_id FROM dependencies WHERE job_id = ANY(CAST(:ids AS uuid[])) AND NOT on_success ORDER BY job_id
""")

_LEAVE = Statement("""
WITH place AS (
    DELETE FROM dependencies WHERE job_id = :id AND NOT on_success RETURNING needs
), bypassed AS (
    UPDATE dependencies d SET needs = p.needs FROM place p WHERE d.needs = :id AND NOT d.on_success
)
UPDATE ordering_keys k SET job_id = p.needs FROM place p, jobs j
WHERE j.id = :id AND k.tenant = j.tenant AND k.queue = j.queue AND k.key = j.ordering_key AND k.job_id = j.id
""")


class Line(NamedTuple):
    tenant: str
    queue: str
    key: str


async def lock(conn: Connection, lines: Mapping[Line, UUID]) -> None:
    """Hold these lines until the transaction ends; one that is new is made, with the job that is to be its first."""
    await _LOCK.rows(conn, **_columns(lines), ids=list(lines.values()))


async def busy(conn: Connection, lines: Iterable[Line]) -> dict[Line, UUID]:
    """Of lines that are held, those in which somebody waits or runs, and the last job of each.

    To be asked by a statement after `lock`, whose snapshot may be older than what it waited for.
    """
    return {Line(*row[:3]): row[3] for row in await _BUSY.rows(conn, **_columns(lines))}


async def append(conn: Connection, edges: Sequence[tuple[UUID, UUID]], lines: Mapping[Line, UUID]) -> None:
    """Write who waits for whom, as (needs, job), and the new last jobs of lines that are held. The caller commits."""
    needs, job_ids = [edge[0] for edge in edges], [edge[1] for edge in edges]
    await _APPEND.rows(conn, needs=needs, job_ids=job_ids, **_columns(lines), ids=list(lines.values()))


async def in_line(conn: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Of these jobs, whose lines are held, those that still have a place in theirs."""
    return [row[0] for row in await _IN_LINE.rows(conn, ids=list(ids))]


async def leave(conn: Connection, job_id: UUID) -> None:
    """Give up a place in a line that is held: whoever is behind it waits for the one before. The caller commits."""
    await _LEAVE.rows(conn, id=job_id)


async def share(conn: Connection, ids: Sequence[UUID]) -> None:
    """Let nobody add to the lines of these jobs, which have ended in this transaction, until it commits."""
    await _SHARE.rows(conn, ids=list(ids))


def _columns(lines: Iterable[Line]) -> dict[str, list[str]]:
    names = list(lines)
    return {"tenants": [n.tenant for n in names], "queues": [n.queue for n in names], "keys": [n.key for n in names]}
