"""What a running attempt records of itself: the results of its steps, and its progress.

Both are written behind the fence. A step locks its row in `attempts`, so a rescue of the attempt comes either before,
and the step is refused, or after, and the next attempt reads it.
"""

from collections.abc import Mapping

from accepted.domain.references import Lease
from accepted.storage.attempts.claims import OPEN_LEASE, lease_values
from accepted.storage.db.notifications import ANNOUNCE
from accepted.storage.db.statements import Connection, Statement

_RECALL_STEPS = Statement(f"""
WITH lease AS MATERIALIZED ({OPEN_LEASE})
SELECT s.name, CAST(s.result AS text) AS result FROM lease l LEFT JOIN steps s ON s.job_id = l.job_id
""")

_REMEMBER_STEP = Statement(f"""
WITH lease AS MATERIALIZED ({OPEN_LEASE} FOR NO KEY UPDATE OF t), written AS (
    INSERT INTO steps (job_id, name, attempt, result)
    SELECT job_id, :name, attempt, CAST(CAST(:result AS text) AS json) FROM lease
    ON CONFLICT (job_id, name) DO NOTHING
)
SELECT count(*) FROM lease
""")

_WRITE_PROGRESS = Statement(f"""
WITH reported AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:ids AS uuid[]), CAST(:attempts AS int4[]), CAST(:worker_ids AS uuid[]), CAST(:progress AS text[])
    ) AS r(job_id, attempt, worker_id, progress)
), locked AS MATERIALIZED (
    SELECT j.id FROM jobs j
    JOIN reported r ON r.job_id = j.id
    JOIN attempts t ON t.job_id = r.job_id AND t.attempt = r.attempt AND t.worker_id = r.worker_id
    WHERE j.status = 'running' AND j.attempt = r.attempt AND t.finished_at IS NULL
    ORDER BY j.id FOR NO KEY UPDATE OF j
), changed AS (
    UPDATE jobs j SET progress = CAST(r.progress AS json)
    FROM reported r JOIN locked l ON l.id = r.job_id
    WHERE j.id = r.job_id AND j.status = 'running' AND j.attempt = r.attempt
    RETURNING j.id
)
SELECT {ANNOUNCE.format(rows="changed")}
""")


async def recall_steps(conn: Connection, lease: Lease) -> dict[str, str] | None:
    """The results of the job's steps by name, as JSON text; None if the lease does not hold."""
    rows = await _RECALL_STEPS.rows(conn, **lease_values(lease))
    return {row["name"]: row["result"] for row in rows if row["name"] is not None} if rows else None


async def remember_step(conn: Connection, lease: Lease, name: str, result: str) -> bool:
    """Write the result of a step. False: the lease does not hold, and nothing is written. The caller commits.

    A result that exists stays: this attempt wrote it in a commit whose answer was lost.
    """
    return bool(await _REMEMBER_STEP.value(conn, **lease_values(lease), name=name, result=result))


async def write_progress(conn: Connection, progress: Mapping[Lease, str]) -> None:
    """Write the latest progress of attempts, as JSON text; skips those whose lease has ended. The caller commits."""
    await _WRITE_PROGRESS.run(
        conn,
        ids=[lease.job_id for lease in progress],
        attempts=[lease.attempt for lease in progress],
        worker_ids=[lease.worker_id for lease in progress],
        progress=list(progress.values()),
    )
