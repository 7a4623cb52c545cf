"""Cancelling on request: a waiting job at once, a running one by a note on its lease.

One statement, which finds the job by the row that only one state has: a waiting job's in the outbox, a running one's
open lease in `attempts`. A job that is just on its way from one to the other may have neither in the statement's
snapshot: then nothing is changed, and the caller looks again.
"""

from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.job import FINISHED
from accepted.domain.transitions import ON_REQUEST

CHANGE_COLUMNS = """
    j.id, j.status, j.callback_url IS NOT NULL AND 'job.' || j.status = ANY(j.callback_events) AS wants_webhook,
    j.has_dependents, j.batch_id
"""
"""What a statement that changes `jobs AS j` returns: the fields of `StatusChange`, in their order."""

END = f"""
    status = 'cancelled', finished_at = now(),
    error = json_build_object('class', 'cancelled', 'message', '{ON_REQUEST}', 'attempt', j.attempt)
"""

_CANCEL = text(f"""
WITH taken AS (
    DELETE FROM outbox WHERE job_id = :id RETURNING job_id, attempt
), waiting AS (
    UPDATE jobs j SET {END} FROM taken t
    WHERE j.id = t.job_id AND j.attempt = t.attempt AND j.status IN ('scheduled', 'blocked', 'queued', 'retrying')
    RETURNING {CHANGE_COLUMNS}
), running AS (
    UPDATE attempts SET cancel_requested_at = coalesce(cancel_requested_at, now())
    WHERE job_id = :id AND finished_at IS NULL
    RETURNING job_id
)
SELECT * FROM waiting
UNION ALL SELECT job_id, 'running', false, false, NULL FROM running
""")

_REQUESTED = text("""
SELECT job_id, attempt FROM attempts
WHERE worker_id = :worker_id AND finished_at IS NULL AND cancel_requested_at IS NOT NULL
""")


class StatusChange(msgspec.Struct, frozen=True):
    """A job whose status the transaction has changed, and what else depends on its end."""

    job_id: UUID
    status: str
    wants_webhook: bool
    has_dependents: bool
    batch_id: UUID | None

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


async def cancel(conn: AsyncConnection, job_id: UUID) -> StatusChange | None:
    """End a job that waits; for one that runs, tell its worker. None when it was found doing neither.

    The caller commits, unless None.
    """
    row = (await conn.execute(_CANCEL, {"id": job_id})).first()
    return None if row is None else StatusChange(*row)


async def requested(conn: AsyncConnection, worker_id: UUID) -> list[tuple[UUID, int]]:
    """The attempts (job, number) of this worker that are to be cancelled."""
    return [(row[0], row[1]) for row in await conn.execute(_REQUESTED, {"worker_id": worker_id})]
