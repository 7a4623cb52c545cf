"""Cancelling a batch: a note on its row, and then its members in rounds, in the order of their ids.

A round passes over whatever somebody else has locked, and says of how many members it could not tell: those are on
their way from one state to the next, and the next pass finds them there. So no round waits for anybody, and none
can deadlock.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.storage.jobs.cancellation import CHANGE_COLUMNS, END, StatusChange

_REQUEST = text("""
UPDATE batches SET cancel_requested_at = COALESCE(cancel_requested_at, now())
WHERE id = :id AND tenant = :tenant AND finished_at IS NULL RETURNING id
""")

_CARRIED_OUT = text("UPDATE batches SET cancel_requested_at = NULL WHERE id = :id")

_UNFINISHED = text("""
SELECT id FROM jobs WHERE batch_id = :id AND id > :after AND finished_at IS NULL ORDER BY id LIMIT :most
""")

_CANCEL = text(f"""
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
), leases AS MATERIALIZED (
    SELECT job_id, attempt FROM attempts
    WHERE job_id = ANY(CAST(:ids AS uuid[])) AND finished_at IS NULL AND cancel_requested_at IS NULL
    ORDER BY job_id FOR UPDATE SKIP LOCKED
), told AS (
    UPDATE attempts t SET cancel_requested_at = now() FROM leases l
    WHERE t.job_id = l.job_id AND t.attempt = l.attempt
    RETURNING t.job_id
)
SELECT * FROM ended
UNION ALL SELECT job_id, 'running', false, false, NULL FROM told
UNION ALL SELECT job_id, 'running', false, false, NULL FROM attempts
WHERE job_id = ANY(CAST(:ids AS uuid[])) AND finished_at IS NULL AND cancel_requested_at IS NOT NULL
""")


class Round(msgspec.Struct, frozen=True):
    """One round: the members that ended by it, where the next one goes on (None: that was the last), and how many
    members it could neither end nor tell."""

    ended: Sequence[StatusChange]
    next: UUID | None
    missed: int


async def request(conn: AsyncConnection, tenant: str, batch_id: UUID) -> bool:
    """Note that the batch is to be cancelled. False: it has finished, or is not there. The caller commits."""
    return (await conn.execute(_REQUEST, {"id": batch_id, "tenant": tenant})).first() is not None


async def carried_out(conn: AsyncConnection, batch_id: UUID) -> None:
    """Every member has ended or was told: take the note away. The caller commits."""
    await conn.execute(_CARRIED_OUT, {"id": batch_id})


async def cancel_some(conn: AsyncConnection, batch_id: UUID, after: UUID, most: int) -> Round:
    """End or tell up to `most` unfinished members whose id is greater than `after`. The caller commits."""
    found = await conn.execute(_UNFINISHED, {"id": batch_id, "after": after, "most": most})
    ids = [row[0] for row in found]
    done = [StatusChange(*row) for row in await conn.execute(_CANCEL, {"ids": ids})]
    ended = [one for one in done if one.finished]
    missed = len(ids) - len({one.job_id for one in done})
    return Round(ended, ids[-1] if len(ids) == most else None, missed)
