"""Lines: the jobs of one (tenant, queue, ordering key), each of which waits for the end of the one before.

The line's row names its last job. A transaction that adds to a line locks the row exclusively; transactions that end
jobs of the line share it. So each sees every edge that the other has committed, and neither locks the other's jobs.
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
    """Lock these lines until the transaction ends. A new line is inserted, with its job as the last one."""
    await _LOCK.run(conn, **_columns(lines), ids=list(lines.values()))


async def busy(conn: Connection, lines: Iterable[Line]) -> dict[Line, UUID]:
    """The last job of each of these locked lines that has a waiting or running job.

    A statement of its own after `lock`, whose snapshot may be older than the change that it waited for.
    """
    found = await _BUSY.rows(conn, **_columns(lines))
    return {Line(row["tenant"], row["queue"], row["key"]): row["job_id"] for row in found}


async def append(conn: Connection, edges: Sequence[tuple[UUID, UUID]], lines: Mapping[Line, UUID]) -> None:
    """Write edges (needs, job) and the new last jobs of locked lines. The caller commits."""
    needs, job_ids = [edge[0] for edge in edges], [edge[1] for edge in edges]
    await _APPEND.run(conn, needs=needs, job_ids=job_ids, **_columns(lines), ids=list(lines.values()))


async def in_line(conn: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Those of these jobs, whose lines are locked, that still have a place in their line."""
    return await _IN_LINE.values(conn, ids=list(ids))


async def leave(conn: Connection, job_id: UUID) -> None:
    """Take a job out of its locked line: the job behind it waits for the one before it. The caller commits."""
    await _LEAVE.run(conn, id=job_id)


async def share(conn: Connection, ids: Sequence[UUID]) -> None:
    """Lock the lines of these jobs, which this transaction has ended, against additions until it commits."""
    await _SHARE.run(conn, ids=list(ids))


def _columns(lines: Iterable[Line]) -> dict[str, list[str]]:
    names = list(lines)
    return {"tenants": [n.tenant for n in names], "queues": [n.queue for n in names], "keys": [n.key for n in names]}
