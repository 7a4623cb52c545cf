"""Unique keys: one row for each (tenant, key), which names the job that has it.

Nothing is written when that job starts or ends. Who comes with its key finds out: one statement inserts the row, or
takes it over from a job that is past its `until`, or leaves it. The unique index decides between those who come at
once.
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
"""A job that this statement cannot see was inserted, with its row, by somebody who committed while we waited for the
row: it is there. It cannot have been pruned, for then its row went with it. So only a job that is seen to be past its
`until` is taken over from."""

_HOLDERS = Statement("""
SELECT u.tenant, u.key, u.job_id
FROM unnest(CAST(:tenants AS text[]), CAST(:keys AS text[])) AS n(tenant, key) JOIN unique_keys u USING (tenant, key)
""")


class Place(NamedTuple):
    """What can be had by one job at a time."""

    tenant: str
    key: str


async def take(conn: Connection, wanted: Mapping[Place, tuple[UUID, Unique]]) -> set[UUID]:
    """The jobs that have their key by this. The rows of all keys are held until the transaction ends."""
    rows = await _TAKE.rows(
        conn,
        **_columns(wanted),
        untils=[unique.until for _, unique in wanted.values()],
        ids=[job_id for job_id, _ in wanted.values()],
    )
    return {row[0] for row in rows}


async def holders(conn: Connection, places: Iterable[Place]) -> dict[Place, UUID]:
    """Which job has each of these keys. To be asked by a statement after `take`, whose snapshot may be too old."""
    return {Place(*row[:2]): row[2] for row in await _HOLDERS.rows(conn, **_columns(places))}


def _columns(places: Iterable[Place]) -> dict[str, list[str]]:
    named = list(places)
    return {"tenants": [place.tenant for place in named], "keys": [place.key for place in named]}
