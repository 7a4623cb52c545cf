"""How a batch ends: the moves of its jobs are added to its counts, and its jobs are cancelled when that is requested.

A move is appended to `batch_moves` by the transaction that changes the job's status, and deleted by the one that adds
it to the row of the batch. So the row with the moves that are left is exact at each moment, and jobs of one batch do
not wait for each other. The row alone may lag behind; a batch finishes by both.

A cancel is noted on the batch's row and carried out in chunks of its jobs, by id. A chunk skips locked rows and counts
the jobs that it missed, because those are just changing their state: the next pass finds them. So a chunk never waits
and never deadlocks.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.job import FINISHED, Status
from accepted.storage.batches import STEPS, SUM
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.jobs import cancellation
from accepted.storage.jobs.cancellation import StatusChange

_FAILURES = f"('{Status.FAILED}', '{Status.EXPIRED}')"
"""Ends that count as failures where `on_failure` is `cancel`. A cancelled job does not: a client asked for that."""

_TO_DO = Statement("""
SELECT EXISTS (SELECT FROM batch_moves) AS moves, EXISTS (SELECT FROM unfinished_ends) AS unfinished,
       ARRAY(SELECT id FROM batches WHERE cancel_requested_at IS NOT NULL ORDER BY id LIMIT :limit) AS cancels
""")

_ADD_UP = Statement(f"""
WITH taken AS MATERIALIZED (
    SELECT id FROM batch_moves ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM batch_moves m USING taken t WHERE m.id = t.id RETURNING m.batch_id, m.from_status, m.to_status
), added AS MATERIALIZED (
    SELECT batch_id, json_object_agg(status, jobs) AS moves, bool_or(failed) AS failed FROM (
        SELECT m.batch_id, s.status, sum(s.jobs) AS jobs, bool_or(m.to_status IN {_FAILURES}) AS failed
        FROM gone m CROSS JOIN LATERAL {STEPS} GROUP BY m.batch_id, s.status
    ) AS summed GROUP BY batch_id
), locked AS MATERIALIZED (
    SELECT b.id FROM batches b JOIN added a ON a.batch_id = b.id ORDER BY b.id FOR UPDATE OF b
)
UPDATE batches b SET
    counts = {SUM.format(counts="b.counts", moves="SELECT key, CAST(value AS int8) FROM json_each_text(a.moves)")},
    cancel_requested_at = CASE WHEN a.failed AND b.on_failure = 'cancel' THEN COALESCE(b.cancel_requested_at, now())
                               ELSE b.cancel_requested_at END
FROM added a JOIN locked l ON l.id = a.batch_id
WHERE b.id = a.batch_id
RETURNING b.id, CAST(b.counts AS text) AS counts
""")

_FINISH = Statement("""
UPDATE batches SET finished_at = now(), cancel_requested_at = NULL WHERE id = :id AND finished_at IS NULL
RETURNING finished_at, callback_url
""")

_REQUEST = Statement("""
UPDATE batches SET cancel_requested_at = COALESCE(cancel_requested_at, now())
WHERE id = :id AND tenant = :tenant AND finished_at IS NULL RETURNING id
""")

_CARRIED_OUT = Statement("UPDATE batches SET cancel_requested_at = NULL WHERE id = :id")

_UNFINISHED = Statement("""
SELECT id FROM jobs WHERE batch_id = :id AND id > :after AND finished_at IS NULL ORDER BY id LIMIT :limit
""")


class ToDo(msgspec.Struct, frozen=True):
    """Whether there are moves to add up, whether ends are unfinished (`accepted.storage.jobs.dependencies`), and the
    batches whose cancel was requested."""

    moves: bool
    unfinished: bool
    cancels: list[UUID]


class AddedUp(msgspec.Struct, frozen=True):
    """How many batches have changed, and which of them have no job left to end, by their rows alone."""

    batches: int
    complete: list[UUID]


class CancelledChunk(msgspec.Struct, frozen=True):
    """The jobs that were cancelled, the id after which to go on (None: this was the last chunk), and how many jobs
    were neither cancelled nor asked to be."""

    ended: Sequence[StatusChange]
    next: UUID | None
    missed: int


async def to_do(conn: Connection, limit: int) -> ToDo:
    """What the batches loop has to do, with up to `limit` batches."""
    (row,) = await _TO_DO.rows(conn, limit=limit)
    return struct(ToDo, row)


async def add_up(conn: Connection, limit: int) -> AddedUp:
    """Add up to `limit` moves to their batches, which are locked until the caller commits."""
    rows = await _ADD_UP.rows(conn, limit=limit)
    return AddedUp(len(rows), sorted(row["id"] for row in rows if json.loads(row["counts"]).keys() <= FINISHED))


async def finish(conn: Connection, batch_id: UUID) -> tuple[datetime, str | None] | None:
    """Finish a locked batch. Returns its `finished_at` and its callback URL; None if it has finished already."""
    row = await _FINISH.first(conn, id=batch_id)
    return None if row is None else (row["finished_at"], row["callback_url"])


async def request_cancel(conn: Connection, tenant: str, batch_id: UUID) -> bool:
    """Note that the batch is to be cancelled. False: it has finished, or does not exist. The caller commits."""
    return await _REQUEST.first(conn, id=batch_id, tenant=tenant) is not None


async def cancel_some(conn: Connection, batch_id: UUID, after: UUID, limit: int) -> CancelledChunk:
    """Cancel up to `limit` unfinished jobs with ids above `after`, or ask their workers to. The caller commits."""
    ids = await _UNFINISHED.values(conn, id=batch_id, after=after, limit=limit)
    changes = await cancellation.cancel_many(conn, ids)
    ended = [one for one in changes if one.finished]
    missed = len(ids) - len({one.job_id for one in changes})
    return CancelledChunk(ended, ids[-1] if len(ids) == limit else None, missed)


async def cancel_carried_out(conn: Connection, batch_id: UUID) -> None:
    """Remove the note: every job has ended or was asked to. The caller commits."""
    await _CARRIED_OUT.run(conn, id=batch_id)
