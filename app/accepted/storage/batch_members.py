"""The members of a workflow: who needs whom, and what they have come to."""

from collections.abc import Sequence
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.lease import Lease
from accepted.storage.attempts import fence
from accepted.storage.attempts.fence import OPEN_LEASE

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


async def members_of(conn: AsyncConnection, tenant: str, batch_id: UUID) -> list[Member]:
    """The members of this tenant's workflow, each after all that it needs. Those that were pruned are missing."""
    return [Member(*row) for row in await conn.execute(_MEMBERS, {"id": batch_id, "tenant": tenant})]


async def results(conn: AsyncConnection, lease: Lease) -> dict[str, str] | None:
    """What the jobs that this attempt's job needed came to, as JSON text by ref; None if the lease does not hold."""
    rows: Sequence[tuple[str | None, str | None]] = [
        (row[0], row[1]) for row in await conn.execute(_RESULTS, fence.values(lease))
    ]
    if not rows:
        return None
    return {ref: result or "null" for ref, result in rows if ref is not None}
