"""How a batch learns of the ends of its members: by rows that are appended to `batch_ends`, and added up later.

An end never writes the row of its batch, so a batch serialises nothing. The sum is exact: a row is written in the
transaction of the ends that it tells of, and deleted in the one that adds it up. `remaining` may lag behind, and is 0
only when every member has ended.

Cancelling a batch: a note on its row, and then its members in rounds, in the order of their ids.

A round passes over whatever somebody else has locked, and says of how many members it could not tell: those are on
their way from one state to the next, and the next pass finds them there. So no round waits for anybody, and none
can deadlock.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.batch import Batch
from accepted.domain.job import Status
from accepted.storage.batches import FIELDS, read
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.jobs.cancellation import CHANGE_COLUMNS, END, StatusChange

FAILURES = frozenset({Status.FAILED, Status.EXPIRED})
"""The ends that count as failures to a batch that is cancelled on one. A cancel is somebody's wish."""

_APPEND = Statement("""
INSERT INTO batch_ends (batch_id, ended, failed)
SELECT * FROM unnest(CAST(:batch_ids AS uuid[]), CAST(:ended AS int4[]), CAST(:failed AS bool[]))
""")

_TO_DO = Statement("""
SELECT EXISTS (SELECT FROM batch_ends),
       ARRAY(SELECT id FROM batches WHERE cancel_requested_at IS NOT NULL ORDER BY id LIMIT :limit)
""")

_ADD_UP = text("""
WITH taken AS MATERIALIZED (
    SELECT id FROM batch_ends ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM batch_ends e USING taken t WHERE e.id = t.id RETURNING e.batch_id, e.ended, e.failed
), told AS MATERIALIZED (
    SELECT batch_id, sum(ended) AS ended, bool_or(failed) AS failed FROM gone GROUP BY batch_id
), locked AS MATERIALIZED (
    SELECT b.id FROM batches b JOIN told t ON t.batch_id = b.id ORDER BY b.id FOR UPDATE OF b
)
UPDATE batches b SET
    remaining = b.remaining - t.ended,
    cancel_requested_at = CASE WHEN t.failed AND b.on_failure = 'cancel' THEN COALESCE(b.cancel_requested_at, now())
                               ELSE b.cancel_requested_at END
FROM told t JOIN locked l ON l.id = t.batch_id
WHERE b.id = t.batch_id
RETURNING b.id, b.remaining
""")

_FINISH = text(f"""
UPDATE batches SET finished_at = now(), counts = CAST(:counts AS json), cancel_requested_at = NULL
WHERE id = :id AND remaining = 0 AND finished_at IS NULL
RETURNING {FIELDS}, callback_url
""")


class Added(msgspec.Struct, frozen=True):
    """What adding up came to: which batches were told of ends, and which of them have no member left to end."""

    batches: int
    complete: list[UUID]


async def append(conn: Connection, ended: Iterable[StatusChange]) -> None:
    """Tell the batches of these jobs that they have ended, in the transaction that ends them: a row for each batch."""
    members: Counter[UUID] = Counter()
    failed: set[UUID] = set()
    for one in ended:
        if one.batch_id is not None:
            members[one.batch_id] += 1
            if one.status in FAILURES:
                failed.add(one.batch_id)
    if members:
        await _APPEND.rows(
            conn,
            batch_ids=list(members),
            ended=list(members.values()),
            failed=[batch_id in failed for batch_id in members],
        )


async def to_do(conn: Connection, limit: int) -> tuple[bool, list[UUID]]:
    """Whether there is anything to add up, and up to `limit` batches that are to be cancelled."""
    (row,) = await _TO_DO.rows(conn, limit=limit)
    return row[0], row[1]


async def add_up(conn: AsyncConnection, limit: int) -> Added:
    """Take up to `limit` of the rows and add them up. The batches are locked until the caller commits."""
    rows = (await conn.execute(_ADD_UP, {"limit": limit})).all()
    return Added(len(rows), sorted(row[0] for row in rows if row[1] == 0))


async def finish(conn: AsyncConnection, batch_id: UUID, counts: Mapping[str, int]) -> tuple[Batch, str | None] | None:
    """The end of a batch that this transaction has locked, and its callback URL. None if it is not at its end."""
    row = (await conn.execute(_FINISH, {"id": batch_id, "counts": json.dumps(counts)})).first()
    return None if row is None else (read(tuple(row)[:-1], counts), row[-1])


_REQUEST = text("""
UPDATE batches SET cancel_requested_at = COALESCE(cancel_requested_at, now())
WHERE id = :id AND tenant = :tenant AND finished_at IS NULL RETURNING id
""")

_CARRIED_OUT = text("UPDATE batches SET cancel_requested_at = NULL WHERE id = :id")

_UNFINISHED = text("""
SELECT id FROM jobs WHERE batch_id = :id AND id > :after AND finished_at IS NULL ORDER BY id LIMIT :limit
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


async def request_cancel(conn: AsyncConnection, tenant: str, batch_id: UUID) -> bool:
    """Note that the batch is to be cancelled. False: it has finished, or is not there. The caller commits."""
    return (await conn.execute(_REQUEST, {"id": batch_id, "tenant": tenant})).first() is not None


async def cancel_carried_out(conn: AsyncConnection, batch_id: UUID) -> None:
    """Every member has ended or was told: take the note away. The caller commits."""
    await conn.execute(_CARRIED_OUT, {"id": batch_id})


async def cancel_some(conn: AsyncConnection, batch_id: UUID, after: UUID, limit: int) -> Round:
    """End or tell up to `limit` unfinished members whose id is greater than `after`. The caller commits."""
    found = await conn.execute(_UNFINISHED, {"id": batch_id, "after": after, "limit": limit})
    ids = [row[0] for row in found]
    done = [StatusChange(*row) for row in await conn.execute(_CANCEL, {"ids": ids})]
    ended = [one for one in done if one.finished]
    missed = len(ids) - len({one.job_id for one in done})
    return Round(ended, ids[-1] if len(ids) == limit else None, missed)
