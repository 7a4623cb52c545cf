"""The progress of running jobs, written for many attempts in one statement, each behind its fence."""

from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.lease import Lease
from accepted.storage.db.notifications import ANNOUNCE

_WRITE = text(f"""
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


async def write(conn: AsyncConnection, said: Mapping[Lease, str]) -> None:
    """Note what each attempt said last, as JSON text; those that are over are left alone. The caller commits."""
    await conn.execute(
        _WRITE,
        {
            "ids": [lease.job_id for lease in said],
            "attempts": [lease.attempt for lease in said],
            "worker_ids": [lease.worker_id for lease in said],
            "values": list(said.values()),
        },
    )
