"""The logs of attempts: written while they run, and read with the job.

A row is a piece: the lines of an attempt that one write has brought, up to number `last`. `first` is the oldest line
that the attempt keeps as of then; pieces before it are deleted with the write. So the row with the highest `last` tells
which lines count.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from accepted.domain.references import Lease
from accepted.storage.db.statements import Connection, Statement, struct

_APPEND = Statement("""
WITH piece AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:ids AS uuid[]), CAST(:attempts AS int4[]), CAST(:worker_ids AS uuid[]),
        CAST(:firsts AS int8[]), CAST(:lasts AS int8[]), CAST(:lines AS text[])
    ) AS p(job_id, attempt, worker_id, first, last, lines)
), held AS MATERIALIZED (
    SELECT p.* FROM piece p
    JOIN jobs j ON j.id = p.job_id
    JOIN attempts t ON t.job_id = p.job_id AND t.attempt = p.attempt AND t.worker_id = p.worker_id
    WHERE j.finished_at IS NULL
    ORDER BY j.id FOR KEY SHARE OF j
), outdated AS (
    DELETE FROM attempt_logs l USING held h WHERE l.job_id = h.job_id AND l.attempt = h.attempt AND l.last < h.first
)
INSERT INTO attempt_logs (job_id, attempt, last, first, lines)
SELECT job_id, attempt, last, first, CAST(lines AS json) FROM held
ON CONFLICT (job_id, attempt, last) DO NOTHING
""")
"""The fence is the unfinished job, not the open attempt: what an attempt logged before it was rescued is kept under its
own number. The lock lets the end of the job come before or after, so a job that was deleted gets no lines again.
A piece that is there was written by a commit whose answer was lost."""

_PIECES_AFTER = Statement("""
SELECT l.attempt, l.last, CAST(l.lines AS text) AS lines, (
    SELECT n.first FROM attempt_logs n WHERE n.job_id = l.job_id AND n.attempt = l.attempt ORDER BY n.last DESC LIMIT 1
) AS first
FROM attempt_logs l
WHERE l.job_id = :job_id AND (l.attempt, l.last) > (CAST(:attempt AS int4), CAST(:line AS int8))
  AND l.attempt <= CAST(:until AS int4)
ORDER BY l.attempt, l.last LIMIT :limit
""")


class Piece(msgspec.Struct, frozen=True):
    """Lines of an attempt, each as JSON, the last one with number `last`; the attempt keeps those from `first` on."""

    lease: Lease
    first: int
    last: int
    lines: list[bytes]


class StoredPiece(msgspec.Struct, frozen=True):
    """A piece as it is read: `lines` is a JSON array. `first` is the oldest line that the attempt keeps now."""

    attempt: int
    last: int
    lines: str
    first: int


async def append(conn: Connection, pieces: Sequence[Piece]) -> None:
    """Write pieces, at most one of an attempt; those of finished jobs are left out. Commits by itself."""
    await _APPEND.run(
        conn,
        ids=[one.lease.job_id for one in pieces],
        attempts=[one.lease.attempt for one in pieces],
        worker_ids=[one.lease.worker_id for one in pieces],
        firsts=[one.first for one in pieces],
        lasts=[one.last for one in pieces],
        lines=[(b"[" + b",".join(one.lines) + b"]").decode() for one in pieces],
    )


async def pieces_after(
    conn: Connection, job_id: UUID, attempt: int, line: int, until: int, limit: int
) -> list[StoredPiece]:
    """Up to `limit` pieces with lines behind number `line` of `attempt`, and of attempts up to `until`."""
    rows = await _PIECES_AFTER.rows(conn, job_id=job_id, attempt=attempt, line=line, until=until, limit=limit)
    return [struct(StoredPiece, row) for row in rows]
