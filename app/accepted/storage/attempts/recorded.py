"""Remembered steps: what a part of a job came to, once for all its attempts.

Written only by the attempt that holds the lease: its row in `attempts` is locked while the step goes in, so a rescue
comes before, and the step is refused, or after, and the next attempt reads it.

The progress of running jobs, written for many attempts in one statement, each behind its fence.
"""

from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.references import Lease
from accepted.storage.attempts import claims
from accepted.storage.attempts.claims import OPEN_LEASE
from accepted.storage.db.notifications import ANNOUNCE

_RECALL_STEPS = text(f"""
WITH lease AS MATERIALIZED ({OPEN_LEASE})
SELECT s.name, CAST(s.result AS text) FROM lease l LEFT JOIN steps s ON s.job_id = l.job_id
""")

_REMEMBER_STEP = text(f"""
WITH lease AS MATERIALIZED ({OPEN_LEASE} FOR NO KEY UPDATE OF t), written AS (
    INSERT INTO steps (job_id, name, attempt, result)
    SELECT job_id, :name, attempt, CAST(CAST(:result AS text) AS json) FROM lease
    ON CONFLICT (job_id, name) DO NOTHING
)
SELECT count(*) FROM lease
""")


async def recall_steps(conn: AsyncConnection, lease: Lease) -> dict[str, str] | None:
    """The results so far by name, as JSON text; None if the lease does not hold."""
    rows = list(await conn.execute(_RECALL_STEPS, claims.lease_values(lease)))
    return {row[0]: row[1] for row in rows if row[0] is not None} if rows else None


async def remember_step(conn: AsyncConnection, lease: Lease, name: str, result: str) -> bool:
    """Write the step; False if the lease does not hold, and then nothing is written. The caller commits.

    A step that is there already stays: it is this attempt's own, from a commit whose answer was lost.
    """
    found = await conn.execute(_REMEMBER_STEP, claims.lease_values(lease) | {"name": name, "result": result})
    return bool(found.scalar_one())


_WRITE_PROGRESS = text(f"""
WITH said AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:ids AS uuid[]), CAST(:attempts AS int4[]), CAST(:worker_ids AS uuid[]), CAST(:values AS text[])
    ) AS s(job_id, attempt, worker_id, value)
), locked AS MATERIALIZED (
    SELECT j.id FROM jobs j
    JOIN said s ON s.job_id = j.id
    JOIN attempts t ON t.job_id = s.job_id AND t.attempt = s.attempt AND t.worker_id = s.worker_id
    WHERE j.status = 'running' AND j.attempt = s.attempt AND t.finished_at IS NULL
    ORDER BY j.id FOR NO KEY UPDATE OF j
), moved AS (
    UPDATE jobs j SET progress = CAST(s.value AS json)
    FROM said s JOIN locked l ON l.id = s.job_id
    WHERE j.id = s.job_id AND j.status = 'running' AND j.attempt = s.attempt
    RETURNING j.id
)
SELECT {ANNOUNCE.format(rows="moved")}
""")


async def write_progress(conn: AsyncConnection, said: Mapping[Lease, str]) -> None:
    """Note what each attempt said last, as JSON text; those that are over are left alone. The caller commits."""
    await conn.execute(
        _WRITE_PROGRESS,
        {
            "ids": [lease.job_id for lease in said],
            "attempts": [lease.attempt for lease in said],
            "worker_ids": [lease.worker_id for lease in said],
            "values": list(said.values()),
        },
    )
