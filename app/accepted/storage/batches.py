"""Batches and workflows: the batch's row, the edges between its jobs, and their statuses and results.

A batch is counted when it is inserted. From then on a trigger on `jobs` appends each change of a member's status to
`batch_moves`, and the scheduler adds the moves to the row (`accepted.storage.batch_ends`). A reader adds those that are
left. So no member is counted to read a batch, and no two members write the same row.

`accepted.storage.jobs.submission` inserts the jobs in the same transaction. The batch's idempotency key
(`accepted.storage.jobs.idempotency`) is written last, so that a second submission of the key waits for no more than a
COMMIT.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.batch import Batch, NewBatch
from accepted.domain.ids import AFTER_ALL
from accepted.domain.references import Lease
from accepted.storage.attempts.claims import OPEN_LEASE, lease_values
from accepted.storage.db.statements import Connection, Row, Statement, struct

_CREATE = Statement("""
INSERT INTO batches (id, tenant, workflow, total, on_failure, callback_url)
VALUES (:id, :tenant, :workflow, :total, :on_failure, :callback_url)
RETURNING created_at
""")

_SET_COUNTS = Statement("UPDATE batches SET counts = CAST(:counts AS json) WHERE id = :id")

_LINK = Statement("""
WITH edge AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:needs AS uuid[]), CAST(:job_ids AS uuid[])) AS e(needs, job_id)
), linked AS (
    INSERT INTO dependencies (needs, job_id, on_success) SELECT needs, job_id, true FROM edge
)
UPDATE jobs SET has_dependents = true WHERE id IN (SELECT needs FROM edge)
""")

SUM = """(
    SELECT json_object_agg(status, jobs) FROM (
        SELECT status, sum(jobs) AS jobs FROM (
            SELECT key AS status, CAST(value AS int8) AS jobs FROM json_each_text({counts})
            UNION ALL
            {moves}
        ) AS each GROUP BY status HAVING sum(jobs) <> 0
    ) AS kept
)"""
"""The counts of a batch with `moves`, rows of (status, jobs), added. Those moves alone may give a negative number: the
move that came before them is not added yet."""

STEPS = "(VALUES (m.from_status, -1), (m.to_status, 1)) AS s(status, jobs)"
"""What a row of `batch_moves m` adds to the counts."""

_SHOWN = f"""
SELECT b.id, b.tenant, b.workflow, b.total, b.created_at, b.finished_at, CAST({
    SUM.format(
        counts="b.counts",
        moves=f"SELECT s.status, s.jobs FROM batch_moves m CROSS JOIN LATERAL {STEPS} WHERE m.batch_id = b.id",
    )
} AS text) AS counts
FROM batches b
"""

_FIND = Statement(f"{_SHOWN} WHERE b.id = :id")

_PAGE = Statement(f"{_SHOWN} WHERE b.tenant = :tenant AND b.id < :before ORDER BY b.id DESC LIMIT :limit")

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
    """Insert the row of a batch whose jobs and `set_counts` follow in this transaction. Returns its `created_at`."""
    created_at: datetime = await _CREATE.value(conn, **msgspec.structs.asdict(batch))
    return created_at


async def set_counts(conn: Connection, batch_id: UUID, counts: Mapping[str, int]) -> None:
    """How many jobs of each status this transaction has inserted. What they come to is noted by a trigger."""
    await _SET_COUNTS.run(conn, id=batch_id, counts=json.dumps(counts))


async def link(conn: Connection, edges: Sequence[tuple[UUID, UUID]]) -> None:
    """Write edges (needs, job), each for a success, between jobs that this transaction has inserted."""
    await _LINK.run(conn, needs=[needs for needs, _ in edges], job_ids=[job_id for _, job_id in edges])


async def find(conn: Connection, batch_id: UUID) -> Batch | None:
    """The batch, of any tenant: the caller compares. Its counts are those of this moment."""
    row = await _FIND.first(conn, id=batch_id)
    return None if row is None else _batch(row)


async def page(conn: Connection, tenant: str, before: UUID | None, limit: int) -> list[Batch]:
    """Up to `limit` batches of the tenant, newest first, below the id `before`."""
    rows = await _PAGE.rows(conn, tenant=tenant, before=before or AFTER_ALL, limit=limit)
    return [_batch(row) for row in rows]


async def members(conn: Connection, tenant: str, batch_id: UUID) -> list[Member]:
    """The jobs of this tenant's workflow, each after all that it needs. Pruned jobs are missing."""
    return [struct(Member, row) for row in await _MEMBERS.rows(conn, id=batch_id, tenant=tenant)]


async def results_needed(conn: Connection, lease: Lease) -> dict[str, str] | None:
    """The results of the jobs that this attempt's job needs, as JSON text by ref; None if the lease does not hold."""
    rows = await _RESULTS.rows(conn, **lease_values(lease))
    return {row["ref"]: row["result"] or "null" for row in rows if row["ref"] is not None} if rows else None


def _batch(row: Row) -> Batch:
    return struct(Batch, dict(row) | {"counts": json.loads(row["counts"])})
