"""Batches: the row, its idempotency record, the edges between its members, and what they have come to.

The members themselves are inserted by `accepted.storage.jobs.submission`, in the same transaction, many at a time. The
record of the key is written last, so that nobody who sends the same key waits for more than a COMMIT.

The members of a workflow: who needs whom, and what they have come to.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.batch import Batch, NewBatch
from accepted.domain.references import Lease
from accepted.storage.attempts import claims
from accepted.storage.attempts.claims import OPEN_LEASE

COUNTED = 100_000
"""Members counted in one statement: a fraction of a second, also where they have to be read from disk."""

_CREATE = text("""
INSERT INTO batches (id, tenant, workflow, total, remaining, on_failure, callback_url)
VALUES (:id, :tenant, :workflow, :total, :total, :on_failure, :callback_url)
RETURNING created_at
""")

_REMEMBER = text("""
INSERT INTO idempotency_keys AS k (tenant, key, fingerprint, job_id, expires_at)
VALUES (:tenant, :key, :fingerprint, :id, now() + CAST(:ttl AS float8) * interval '1 second')
ON CONFLICT (tenant, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, job_id = excluded.job_id, expires_at = excluded.expires_at
    WHERE k.expires_at <= now()
RETURNING job_id
""")

_LINK = text("""
WITH edge AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:needs AS uuid[]), CAST(:job_ids AS uuid[])) AS e(needs, job_id)
), linked AS (
    INSERT INTO dependencies (needs, job_id, on_success) SELECT needs, job_id, true FROM edge
)
UPDATE jobs SET has_dependents = true WHERE id IN (SELECT needs FROM edge)
""")

FIELDS = "id, tenant, workflow, total, CAST(counts AS text), created_at, finished_at"
"""What `read` reads."""

_FIND = text(f"SELECT {FIELDS} FROM batches WHERE id = :id")

_COUNT = text("""
SELECT status, count(*), max(CAST(id AS text)) FROM (
    SELECT id, status FROM jobs WHERE batch_id = :id AND id > :after ORDER BY id LIMIT :limit
) AS part GROUP BY status
""")


async def create(conn: AsyncConnection, batch: NewBatch) -> datetime:
    """Insert the row of a batch whose members follow in this transaction. Returns its `created_at`."""
    fields = ("id", "tenant", "workflow", "total", "on_failure", "callback_url")
    row = await conn.execute(_CREATE, {name: getattr(batch, name) for name in fields})
    created_at: datetime = row.scalar_one()
    return created_at


async def remember(conn: AsyncConnection, batch: NewBatch, key: str, fingerprint: bytes, ttl: float) -> bool:
    """Write the record of `key`. False: there is one already, and this transaction must not commit."""
    values = {"tenant": batch.tenant, "key": key, "fingerprint": fingerprint, "id": batch.id, "ttl": float(ttl)}
    return (await conn.execute(_REMEMBER, values)).first() is not None


async def link(conn: AsyncConnection, edges: Sequence[tuple[UUID, UUID]]) -> None:
    """Let jobs wait for others: (needs, job_id), each for a success. Both were inserted in this transaction."""
    await conn.execute(_LINK, {"needs": [edge[0] for edge in edges], "job_ids": [edge[1] for edge in edges]})


async def find(conn: AsyncConnection, batch_id: UUID) -> Batch | None:
    """The batch, of any tenant: the caller compares. Its members are counted unless they were at its end."""
    row = (await conn.execute(_FIND, {"id": batch_id})).first()
    if row is None:
        return None
    counts = await count(conn, batch_id) if row[4] is None else json.loads(row[4])
    return read(row, counts)


async def count(conn: AsyncConnection, batch_id: UUID) -> dict[str, int]:
    """How many members there are by status."""
    counts: Counter[str] = Counter()
    after, found = UUID(int=0), COUNTED
    while found == COUNTED:
        rows = (await conn.execute(_COUNT, {"id": batch_id, "after": after, "limit": COUNTED})).all()
        counts.update({row[0]: row[1] for row in rows})
        found = sum(row[1] for row in rows)
        after = max((UUID(row[2]) for row in rows), default=after)
    return counts


def read(row: Sequence[Any], counts: Mapping[str, int]) -> Batch:
    """The batch of a row of `FIELDS`."""
    return Batch(
        id=row[0], tenant=row[1], workflow=row[2], total=row[3], counts=counts, created_at=row[5], finished_at=row[6]
    )


_MEMBERS = text("""
SELECT j.ref, j.id, j.status, ARRAY(
    SELECT n.ref FROM dependencies d JOIN jobs n ON n.id = d.needs
    WHERE d.job_id = j.id AND d.on_success ORDER BY n.id
)
FROM jobs j WHERE j.batch_id = :id AND j.tenant = :tenant ORDER BY j.id
""")

_RESULTS = text(f"""
WITH lease AS MATERIALIZED ({OPEN_LEASE})
SELECT n.ref, CAST(n.result AS text) FROM lease l
LEFT JOIN dependencies d ON d.job_id = l.job_id AND d.on_success
LEFT JOIN jobs n ON n.id = d.needs
ORDER BY n.id
""")


class Member(msgspec.Struct, frozen=True):
    """A job of a workflow, as `GET /batches/{id}` lists it; `depends_on` are refs."""

    ref: str
    id: UUID
    status: str
    depends_on: list[str]


async def members(conn: AsyncConnection, tenant: str, batch_id: UUID) -> list[Member]:
    """The members of this tenant's workflow, each after all that it needs. Those that were pruned are missing."""
    return [Member(*row) for row in await conn.execute(_MEMBERS, {"id": batch_id, "tenant": tenant})]


async def results_needed(conn: AsyncConnection, lease: Lease) -> dict[str, str] | None:
    """What the jobs that this attempt's job needed came to, as JSON text by ref; None if the lease does not hold."""
    rows: Sequence[tuple[str | None, str | None]] = [
        (row[0], row[1]) for row in await conn.execute(_RESULTS, claims.lease_values(lease))
    ]
    if not rows:
        return None
    return {ref: result or "null" for ref, result in rows if ref is not None}
