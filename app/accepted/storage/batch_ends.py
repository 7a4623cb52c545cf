"""How a batch learns of the ends of its members: by rows that are appended to `batch_ends`, and added up later.

An end never writes the row of its batch, so a batch serialises nothing. The sum is exact: a row is written in the
transaction of the ends that it tells of, and deleted in the one that adds it up. `remaining` may lag behind, and is 0
only when every member has ended.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.batch import Batch
from accepted.domain.job import Status
from accepted.storage.batches import FIELDS, read
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.jobs.cancellation import StatusChange

FAILURES = frozenset({Status.FAILED, Status.EXPIRED})
"""The ends that count as failures to a batch that is cancelled on one. A cancel is somebody's wish."""

_APPEND = Statement("""
INSERT INTO batch_ends (batch_id, ended, failed)
SELECT * FROM unnest(CAST(:batch_ids AS uuid[]), CAST(:ended AS int4[]), CAST(:failed AS bool[]))
""")

_TO_DO = Statement("""
SELECT EXISTS (SELECT FROM batch_ends),
       ARRAY(SELECT id FROM batches WHERE cancel_requested_at IS NOT NULL ORDER BY id LIMIT :most)
""")

_ADD_UP = text("""
WITH taken AS MATERIALIZED (
    SELECT id FROM batch_ends ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED
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


async def to_do(conn: Connection, most: int) -> tuple[bool, list[UUID]]:
    """Whether there is anything to add up, and up to `most` batches that are to be cancelled."""
    (row,) = await _TO_DO.rows(conn, most=most)
    return row[0], row[1]


async def add_up(conn: AsyncConnection, most: int) -> Added:
    """Take up to `most` of the rows and add them up. The batches are locked until the caller commits."""
    rows = (await conn.execute(_ADD_UP, {"most": most})).all()
    return Added(len(rows), sorted(row[0] for row in rows if row[1] == 0))


async def finish(conn: AsyncConnection, batch_id: UUID, counts: Mapping[str, int]) -> tuple[Batch, str | None] | None:
    """The end of a batch that this transaction has locked, and its callback URL. None if it is not at its end."""
    row = (await conn.execute(_FINISH, {"id": batch_id, "counts": json.dumps(counts)})).first()
    return None if row is None else (read(tuple(row)[:-1], counts), row[-1])
