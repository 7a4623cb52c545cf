"""Batches and workflows: the batch's row, the edges between its jobs, and their statuses and results.

`accepted.storage.jobs.submission` inserts the jobs in the same transaction. The batch's idempotency key
(`accepted.storage.jobs.idempotency`) is written last, so that a second submission of the key waits for no more than a
COMMIT.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.batch import Batch, NewBatch
from accepted.domain.references import Lease
from accepted.storage.attempts.claims import OPEN_LEASE, lease_values
from accepted.storage.db.statements import Connection, Row, Statement, struct

COUNTED = 100_000
"""Jobs counted in one statement: a fraction of a second, also when they are read from disk."""

_CREATE = Statement("""
INSERT INTO batches (id, tenant, workflow, total, remaining, on_failure, callback_url)
VALUES (:id, :tenant, :workflow, :total, :total, :on_failure, :callback_url)
RETURNING created_at
""")

_LINK = Statement("""
WITH edge AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:needs AS uuid[]), CAST(:job_ids AS uuid[])) AS e(needs, job_id)
), linked AS (
    INSERT INTO dependencies (needs, job_id, on_success) SELECT needs, job_id, true FROM edge
)
UPDATE jobs SET has_dependents = true WHERE id IN (SELECT needs FROM edge)
""")

COLUMNS = "id, tenant, workflow, total, CAST(counts AS text) AS counts, created_at, finished_at"
"""The select list for `batch`."""

_FIND = Statement(f"SELECT {COLUMNS} FROM batches WHERE id = :id")

_COUNT = Statement("""
SELECT status, count(*) AS jobs, max(CAST(id AS text)) AS last FROM (
    SELECT id, status FROM jobs WHERE batch_id = :id AND id > :after ORDER BY id LIMIT :limit
) AS part GROUP BY status
""")

_MEMBERS = Statement("""
SELECT j.ref, j.id, j.status, ARRAY(
    SELECT n.ref FROM dependencies d JOIN jobs n ON n.id = d.needs
    WHERE d.job_id = j.id AND d.on_success ORDER BY n.id
) AS depends_on
FROM jobs j WHERE j.batch_id = :id AND j.tenant = :tenant ORDER BY j.id
""")

_RESULTS = Statement(f"""
WITH lease AS MATERIALIZED ({OPEN_LEASE})
SELECT n.ref, CAST(n.result AS text) AS result FROM lease l
LEFT JOIN dependencies d ON d.job_id = l.job_id AND d.on_success
LEFT JOIN jobs n ON n.id = d.needs
ORDER BY n.id
""")


class Member(msgspec.Struct, frozen=True):
    """A job of a workflow, as `GET /batches/{id}` lists it; `depends_on` holds refs."""

    ref: str
    id: UUID
    status: str
    depends_on: list[str]


async def create(conn: Connection, batch: NewBatch) -> datetime:
    """Insert the row of a batch whose jobs follow in this transaction. Returns its `created_at`."""
    created_at: datetime = await _CREATE.value(conn, **msgspec.structs.asdict(batch))
    return created_at


async def link(conn: Connection, edges: Sequence[tuple[UUID, UUID]]) -> None:
    """Write edges (needs, job), each for a success, between jobs that this transaction has inserted."""
    await _LINK.run(conn, needs=[needs for needs, _ in edges], job_ids=[job_id for _, job_id in edges])


async def find(conn: Connection, batch_id: UUID) -> Batch | None:
    """The batch, of any tenant: the caller compares. Its jobs are counted, unless it has finished."""
    row = await _FIND.first(conn, id=batch_id)
    if row is None:
        return None
    return batch(row, await count(conn, batch_id) if row["counts"] is None else json.loads(row["counts"]))


async def count(conn: Connection, batch_id: UUID) -> dict[str, int]:
    """How many jobs of the batch there are by status."""
    counts: Counter[str] = Counter()
    after, found = UUID(int=0), COUNTED
    while found == COUNTED:
        rows = await _COUNT.rows(conn, id=batch_id, after=after, limit=COUNTED)
        counts.update({row["status"]: row["jobs"] for row in rows})
        found = sum(row["jobs"] for row in rows)
        after = max((UUID(row["last"]) for row in rows), default=after)
    return counts


async def members(conn: Connection, tenant: str, batch_id: UUID) -> list[Member]:
    """The jobs of this tenant's workflow, each after all that it needs. Pruned jobs are missing."""
    return [struct(Member, row) for row in await _MEMBERS.rows(conn, id=batch_id, tenant=tenant)]


async def results_needed(conn: Connection, lease: Lease) -> dict[str, str] | None:
    """The results of the jobs that this attempt's job needs, as JSON text by ref; None if the lease does not hold."""
    rows = await _RESULTS.rows(conn, **lease_values(lease))
    return {row["ref"]: row["result"] or "null" for row in rows if row["ref"] is not None} if rows else None


def batch(row: Row, counts: Mapping[str, int]) -> Batch:
    """The batch of a row of `COLUMNS`."""
    return Batch(
        id=row["id"], tenant=row["tenant"], workflow=row["workflow"], total=row["total"], counts=counts,
        created_at=row["created_at"], finished_at=row["finished_at"],
    )  # fmt: skip
