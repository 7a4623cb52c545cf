"""Remembered steps: what a part of a job came to, once for all its attempts.

Written only by the attempt that holds the lease: its row in `attempts` is locked while the step goes in, so a rescue
comes before, and the step is refused, or after, and the next attempt reads it.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.lease import Lease
from accepted.storage.attempts import fence
from accepted.storage.attempts.fence import OPEN_LEASE

_RECALL = text(f"""
WITH lease AS MATERIALIZED ({OPEN_LEASE})
SELECT s.name, CAST(s.result AS text) FROM lease l LEFT JOIN steps s ON s.job_id = l.job_id
""")

_REMEMBER = text(f"""
WITH lease AS MATERIALIZED ({OPEN_LEASE} FOR NO KEY UPDATE OF t), written AS (
    INSERT INTO steps (job_id, name, attempt, result)
    SELECT job_id, :name, attempt, CAST(CAST(:result AS text) AS json) FROM lease
    ON CONFLICT (job_id, name) DO NOTHING
)
SELECT count(*) FROM lease
""")


async def recall(conn: AsyncConnection, lease: Lease) -> dict[str, str] | None:
    """The results so far by name, as JSON text; None if the lease does not hold."""
    rows = list(await conn.execute(_RECALL, fence.values(lease)))
    return {row[0]: row[1] for row in rows if row[0] is not None} if rows else None


async def remember(conn: AsyncConnection, lease: Lease, name: str, result: str) -> bool:
    """Write the step; False if the lease does not hold, and then nothing is written. The caller commits.

    A step that is there already stays: it is this attempt's own, from a commit whose answer was lost.
    """
    found = await conn.execute(_REMEMBER, fence.values(lease) | {"name": name, "result": result})
    return bool(found.scalar_one())
