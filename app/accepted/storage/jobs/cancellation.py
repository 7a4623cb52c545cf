"""Cancelling jobs on request, and what every statement returns that changes a status.

A waiting job ends at once; for a running one the request is noted on its lease, and its worker acts on it.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from accepted.domain.job import FINISHED
from accepted.domain.transitions import ON_REQUEST
from accepted.storage.db.statements import Connection, Row, Statement

CHANGE_COLUMNS = """
    j.id, j.status, j.callback_url IS NOT NULL AND 'job.' || j.status = ANY(j.callback_events) AS wants_webhook,
    j.has_dependents
"""
"""What a statement that changes `jobs AS j` returns for `status_change`."""

END = f"""
    status = 'cancelled', finished_at = now(),
    error = json_build_object('class', 'cancelled', 'message', '{ON_REQUEST}', 'attempt', j.attempt)
"""

_CANCEL = Statement(f"""
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
UNION ALL SELECT job_id, 'running', false, false FROM running
""")
"""One statement, which finds the job by the row that it has in one state only: its outbox row while it waits, its open
lease while it runs."""

_END_WAITING = f"""
WITH locked AS MATERIALIZED (
    SELECT job_id, attempt FROM outbox WHERE job_id = ANY(CAST(:ids AS uuid[]))
    ORDER BY job_id FOR UPDATE SKIP LOCKED
), free AS MATERIALIZED (
    SELECT j.id, r.attempt FROM jobs j JOIN locked r ON r.job_id = j.id AND r.attempt = j.attempt
    WHERE j.status IN ('scheduled', 'blocked', 'queued', 'retrying')
    ORDER BY j.id FOR UPDATE OF j SKIP LOCKED
), taken AS (
    DELETE FROM outbox o USING free f WHERE o.job_id = f.id
), ended AS (
    UPDATE jobs j SET {END} FROM free f WHERE j.id = f.id RETURNING {CHANGE_COLUMNS}
)"""
"""Skips locked rows, so it never waits and never deadlocks."""

_CANCEL_WAITING = Statement(f"{_END_WAITING} SELECT * FROM ended")

_CANCEL_MANY = Statement(f"""{_END_WAITING}, leases AS MATERIALIZED (
    SELECT job_id, attempt FROM attempts
    WHERE job_id = ANY(CAST(:ids AS uuid[])) AND finished_at IS NULL AND cancel_requested_at IS NULL
    ORDER BY job_id FOR UPDATE SKIP LOCKED
), requested AS (
    UPDATE attempts t SET cancel_requested_at = now() FROM leases l
    WHERE t.job_id = l.job_id AND t.attempt = l.attempt
    RETURNING t.job_id
)
SELECT * FROM ended
UNION ALL SELECT job_id, 'running', false, false FROM requested
UNION ALL SELECT job_id, 'running', false, false FROM attempts
WHERE job_id = ANY(CAST(:ids AS uuid[])) AND finished_at IS NULL AND cancel_requested_at IS NOT NULL
""")
_REQUESTED = Statement("""
SELECT job_id, attempt FROM attempts
WHERE worker_id = :worker_id AND finished_at IS NULL AND cancel_requested_at IS NOT NULL
""")


class StatusChange(msgspec.Struct, frozen=True):
    """A job whose status this transaction has changed, and what depends on its end."""

    job_id: UUID
    status: str
    wants_webhook: bool
    has_dependents: bool

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


async def cancel(conn: Connection, job_id: UUID) -> StatusChange | None:
    """End a waiting job, or ask the worker of a running one to end it. The caller commits.

    None: the job has ended, or it was just changing from one state to the other; then nothing is written, and the
    caller reads it again.
    """
    row = await _CANCEL.first(conn, id=job_id)
    return None if row is None else status_change(row)


async def cancel_many(conn: Connection, ids: Sequence[UUID]) -> list[StatusChange]:
    """End those of these jobs that wait, and ask the workers of those that run. The caller commits.

    A job that is missing in the answer has ended, or is just changing its state.
    """
    return [status_change(row) for row in await _CANCEL_MANY.rows(conn, ids=list(ids))]


async def cancel_waiting(conn: Connection, ids: Sequence[UUID]) -> list[StatusChange]:
    """End those of these jobs that wait and are not just changing their state. The caller commits."""
    return [status_change(row) for row in await _CANCEL_WAITING.rows(conn, ids=list(ids))]


async def requested(conn: Connection, worker_id: UUID) -> list[tuple[UUID, int]]:
    """The attempts (job, number) of this worker whose cancel was requested."""
    return [(row["job_id"], row["attempt"]) for row in await _REQUESTED.rows(conn, worker_id=worker_id)]


def status_change(row: Row) -> StatusChange:
    """The change that a row of `CHANGE_COLUMNS` describes."""
    return StatusChange(row["id"], row["status"], row["wants_webhook"], row["has_dependents"])
