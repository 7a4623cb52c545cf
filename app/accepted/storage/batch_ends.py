"""How a batch ends: its jobs are counted down as they end, and cancelled when that is requested.

The end of a job appends a row to `batch_ends` and never writes the row of its batch, so jobs of one batch do not wait
for each other. The rows are added up later. The sum is exact: a row is inserted by the transaction that ends the jobs,
and deleted by the one that adds it up. `remaining` may lag behind, and is 0 only when every job has ended.

A cancel is noted on the batch's row and carried out in chunks of its jobs, by id. A chunk skips locked rows and counts
the jobs that it missed, because those are just changing their state: the next pass finds them. So a chunk never waits
and never deadlocks.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import msgspec

from accepted.domain.batch import Batch
from accepted.domain.job import Status
from accepted.storage.batches import COLUMNS, batch
from accepted.storage.db.statements import Connection, Statement, struct
from accepted.storage.jobs.cancellation import CHANGE_COLUMNS, END, StatusChange, status_change

FAILURES = frozenset({Status.FAILED, Status.EXPIRED})
"""Ends that count as failures where `on_failure` is `cancel`. A cancelled job does not: a client asked for that."""

_APPEND = Statement("""
INSERT INTO batch_ends (batch_id, ended, failed)
SELECT * FROM unnest(CAST(:batch_ids AS uuid[]), CAST(:ended AS int4[]), CAST(:failed AS bool[]))
""")

_TO_DO = Statement("""
SELECT EXISTS (SELECT FROM batch_ends) AS ends, EXISTS (SELECT FROM unfinished_ends) AS unfinished,
       ARRAY(SELECT id FROM batches WHERE cancel_requested_at IS NOT NULL ORDER BY id LIMIT :limit) AS cancels
""")

_ADD_UP = Statement("""
WITH taken AS MATERIALIZED (
    SELECT id FROM batch_ends ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM batch_ends e USING taken t WHERE e.id = t.id RETURNING e.batch_id, e.ended, e.failed
), ended AS MATERIALIZED (
    SELECT batch_id, sum(ended) AS ended, bool_or(failed) AS failed FROM gone GROUP BY batch_id
), locked AS MATERIALIZED (
    SELECT b.id FROM batches b JOIN ended t ON t.batch_id = b.id ORDER BY b.id FOR UPDATE OF b
)
UPDATE batches b SET
    remaining = b.remaining - t.ended,
    cancel_requested_at = CASE WHEN t.failed AND b.on_failure = 'cancel' THEN COALESCE(b.cancel_requested_at, now())
                               ELSE b.cancel_requested_at END
FROM ended t JOIN locked l ON l.id = t.batch_id
WHERE b.id = t.batch_id
RETURNING b.id, b.remaining
""")

_FINISH = Statement(f"""
UPDATE batches SET finished_at = now(), counts = CAST(:counts AS json), cancel_requested_at = NULL
WHERE id = :id AND remaining = 0 AND finished_at IS NULL
RETURNING {COLUMNS}, callback_url
""")

_REQUEST = Statement("""
UPDATE batches SET cancel_requested_at = COALESCE(cancel_requested_at, now())
WHERE id = :id AND tenant = :tenant AND finished_at IS NULL RETURNING id
""")

_CARRIED_OUT = Statement("UPDATE batches SET cancel_requested_at = NULL WHERE id = :id")

_UNFINISHED = Statement("""
SELECT id FROM jobs WHERE batch_id = :id AND id > :after AND finished_at IS NULL ORDER BY id LIMIT :limit
""")

_CANCEL = Statement(f"""
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
), requested AS (
    UPDATE attempts t SET cancel_requested_at = now() FROM leases l
    WHERE t.job_id = l.job_id AND t.attempt = l.attempt
    RETURNING t.job_id
)
SELECT * FROM ended
UNION ALL SELECT job_id, 'running', false, false, NULL FROM requested
UNION ALL SELECT job_id, 'running', false, false, NULL FROM attempts
WHERE job_id = ANY(CAST(:ids AS uuid[])) AND finished_at IS NULL AND cancel_requested_at IS NOT NULL
""")


class ToDo(msgspec.Struct, frozen=True):
    """Whether there is anything to add up, whether ends are unfinished (`accepted.storage.jobs.dependencies`), and the
    batches whose cancel was requested."""

    ends: bool
    unfinished: bool
    cancels: list[UUID]


class AddedUp(msgspec.Struct, frozen=True):
    """How many batches had jobs that ended, and which of them have no job left to end."""

    batches: int
    complete: list[UUID]


class CancelledChunk(msgspec.Struct, frozen=True):
    """The jobs that were cancelled, the id after which to go on (None: this was the last chunk), and how many jobs
    were neither cancelled nor asked to be."""

    ended: Sequence[StatusChange]
    next: UUID | None
    missed: int


async def append(conn: Connection, ended: Iterable[StatusChange]) -> None:
    """Write one row for each batch of these jobs, in the transaction that ends them."""
    jobs: Counter[UUID] = Counter()
    failed: set[UUID] = set()
    for one in ended:
        if one.batch_id is not None:
            jobs[one.batch_id] += 1
            if one.status in FAILURES:
                failed.add(one.batch_id)
    if jobs:
        await _APPEND.run(
            conn,
            batch_ids=list(jobs),
            ended=list(jobs.values()),
            failed=[batch_id in failed for batch_id in jobs],
        )


async def to_do(conn: Connection, limit: int) -> ToDo:
    """What the batches loop has to do, with up to `limit` batches."""
    (row,) = await _TO_DO.rows(conn, limit=limit)
    return struct(ToDo, row)


async def add_up(conn: Connection, limit: int) -> AddedUp:
    """Add up to `limit` rows up. The batches are locked until the caller commits."""
    rows = await _ADD_UP.rows(conn, limit=limit)
    return AddedUp(len(rows), sorted(row["id"] for row in rows if row["remaining"] == 0))


async def finish(conn: Connection, batch_id: UUID, counts: Mapping[str, int]) -> tuple[Batch, str | None] | None:
    """Finish a locked batch. Returns it and its callback URL; None if a job of it has not ended."""
    row = await _FINISH.first(conn, id=batch_id, counts=json.dumps(counts))
    return None if row is None else (batch(row, counts), row["callback_url"])


async def request_cancel(conn: Connection, tenant: str, batch_id: UUID) -> bool:
    """Note that the batch is to be cancelled. False: it has finished, or does not exist. The caller commits."""
    return await _REQUEST.first(conn, id=batch_id, tenant=tenant) is not None


async def cancel_some(conn: Connection, batch_id: UUID, after: UUID, limit: int) -> CancelledChunk:
    """Cancel up to `limit` unfinished jobs with ids above `after`, or ask their workers to. The caller commits."""
    ids = await _UNFINISHED.values(conn, id=batch_id, after=after, limit=limit)
    changes = [status_change(row) for row in await _CANCEL.rows(conn, ids=ids)]
    ended = [one for one in changes if one.finished]
    missed = len(ids) - len({one.job_id for one in changes})
    return CancelledChunk(ended, ids[-1] if len(ids) == limit else None, missed)


async def cancel_carried_out(conn: Connection, batch_id: UUID) -> None:
    """Remove the note: every job has ended or was asked to. The caller commits."""
    await _CARRIED_OUT.run(conn, id=batch_id)
