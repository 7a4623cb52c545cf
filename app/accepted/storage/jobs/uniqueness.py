"""Unique keys: one row for each (tenant, key), which names the job that has it.

Nothing is written when that job starts or ends. The next submission with the key finds out: one statement inserts the
row, takes it over from a job that is past its `until`, or leaves it. The unique index decides between concurrent ones.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from accepted.domain.job import Unique
from accepted.storage.db.statements import Connection, Statement

_TAKE = Statement("""
INSERT INTO unique_keys AS u (tenant, key, until, job_id)
SELECT tenant, key, until, job_id FROM unnest(
    CAST(:tenants AS text[]), CAST(:keys AS text[]), CAST(:untils AS text[]), CAST(:ids AS uuid[])
) AS n(tenant, key, until, job_id) ORDER BY tenant, key
ON CONFLICT (tenant, key) DO UPDATE SET until = excluded.until, job_id = excluded.job_id
    WHERE EXISTS (
        SELECT 1 FROM jobs j
        WHERE j.id = u.job_id AND (j.finished_at IS NOT NULL OR (u.until = 'started' AND j.attempt > 0))
    )
RETURNING job_id
""")
"""Takes over only from a job that it sees past its `until`. A job that it does not see is new: a transaction that
committed while this statement waited for the row inserted both. It was not pruned: the row would be gone, too."""

_HOLDERS = Statement("""
SELECT u.tenant, u.key, u.job_id
FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[])) AS n(tenant, key) JOIN unique_keys u USING (tenant, key)
""")


class UniqueKey(NamedTuple):
    """A key for one job at a time."""

    tenant: str
    key: str


async def take(conn: Connection, wanted: Mapping[UniqueKey, tuple[UUID, Unique]]) -> set[UUID]:
    """Take these keys for their jobs. Returns the jobs that got theirs; the rows are locked until the commit."""
    taken = await _TAKE.values(
        conn,
        **_columns(wanted),
        untils=[unique.until for _, unique in wanted.values()],
        ids=[job_id for job_id, _ in wanted.values()],
    )
    return set(taken)


async def holders(conn: Connection, keys: Iterable[UniqueKey]) -> dict[UniqueKey, UUID]:
    """The job that has each of these keys. A statement of its own after `take`, whose snapshot may be too old."""
    found = await _HOLDERS.rows(conn, **_columns(keys))
    return {UniqueKey(row["tenant"], row["key"]): row["job_id"] for row in found}


def _columns(keys: Iterable[UniqueKey]) -> dict[str, list[str]]:
    listed = list(keys)
    return {"tenants": [each.tenant for each in listed], "keys": [each.key for each in listed]}
