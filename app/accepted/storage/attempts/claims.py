"""queued -> running. A claim takes the outbox row away, counts the attempt and opens its lease, in one statement.

The open row in `attempts` is the lease: it belongs to a worker for as long as that worker's heartbeat is fresh.
A row of a limited queue is claimed only if the limiter has admitted it, and not while the queue is paused: whatever
the broker delivers, the limit is kept here.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.job import Job
from accepted.domain.references import Lease
from accepted.storage.db import notifications
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.queues import LIMITED, PAUSED


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is now running under `worker_id`, with all that its execution and its outcome need."""

    job: Job
    worker_id: UUID
    crashes: int
    retry: str | None
    timeout: float | None
    traceparent: str | None

    @property
    def lease(self) -> Lease:
        return Lease(self.job.id, self.job.attempt, self.worker_id)


ALLOWED = f"NOT o.held AND o.queue <> ALL(CASE WHEN o.admitted THEN {PAUSED} ELSE {LIMITED} END)"
"""The condition on `outbox o` under which a row may be claimed, whatever brought it."""

_LOCK_REFS = f"""
    SELECT o.job_id, o.attempt FROM outbox o
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int4[])) AS w(job_id, attempt) USING (job_id, attempt)
    WHERE {ALLOWED} AND (o.expires_at IS NULL OR o.expires_at > now())
    ORDER BY o.job_id FOR UPDATE OF o
"""

_READY = """
        SELECT o.job_id, o.attempt, o.priority, o.due_at FROM outbox o
        WHERE {condition} AND o.queue = q.name AND o.published AND NOT o.held
          AND (o.expires_at IS NULL OR o.expires_at > now())
        ORDER BY o.priority DESC, o.due_at LIMIT :limit FOR UPDATE SKIP LOCKED
"""

_LOCK_NEXT = f"""
    SELECT ready.job_id, ready.attempt FROM unnest(CAST(:queues AS text[])) AS q(name)
    CROSS JOIN LATERAL (
        SELECT * FROM ({_READY.format(condition=f"q.name <> ALL({LIMITED})")}) AS free
        UNION ALL
        SELECT * FROM ({_READY.format(condition=f"q.name = ANY({LIMITED}) AND q.name <> ALL({PAUSED}) AND o.admitted")})
        AS admitted
    ) AS ready
    ORDER BY ready.priority DESC, ready.due_at LIMIT :limit
"""
"""One half for queues that are not limited, one for those that are: what is published of the latter and was not
admitted may be many rows, which a filter would have to pass over one by one."""

RUN = """
taken AS (
    DELETE FROM outbox o USING locked l WHERE o.job_id = l.job_id AND o.attempt = l.attempt
), running AS (
    UPDATE jobs j SET status = 'running', attempt = j.attempt + 1, started_at = clock_timestamp(), progress = NULL
    FROM locked l
    WHERE j.id = l.job_id AND j.attempt = l.attempt AND j.status IN ('queued', 'scheduled', 'retrying')
    RETURNING j.id, j.tenant, j.type, j.queue, j.status, j.priority, j.attempt, j.max_attempts,
              CAST(j.payload AS text), j.tags, CAST(j.metadata AS text), j.created_at, j.run_at,
              j.expires_at, j.started_at, j.crashes, CAST(j.retry AS text), j.timeout, j.traceparent,
              j.parent_id, j.root_id, j.depth
)"""
"""What becomes of the rows `locked`: their outbox rows are gone, and their jobs are `running`. Not since now(), which
is the time of BEGIN: what is due as it is read need not have been due then."""

_CLAIM = """
WITH locked AS MATERIALIZED ({lock}), {run}, leased AS (
    INSERT INTO attempts (job_id, attempt, worker_id, started_at)
    SELECT id, attempt, CAST(:worker_id AS uuid), started_at FROM running
)
SELECT running.*, {notify} FROM running
"""

_CLAIM_REFS = Statement(_CLAIM.format(lock=_LOCK_REFS, run=RUN, notify=notifications.ANNOUNCE.format(rows="running")))
_CLAIM_NEXT = Statement(_CLAIM.format(lock=_LOCK_NEXT, run=RUN, notify=notifications.ANNOUNCE.format(rows="running")))
_KNOWN = Statement("SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")


async def claim_refs(conn: Connection, worker_id: UUID, refs: list[tuple[UUID, int]]) -> list[Claim]:
    """Claim the jobs that messages refer to, as (id, attempt). A stale or doubled reference yields nothing.

    Waits for a row that is locked, rather than skip it: the lock may be the relay's, and this the only message.
    """
    ids, attempts = [r[0] for r in refs], [r[1] for r in refs]
    rows = await _CLAIM_REFS.rows(conn, worker_id=worker_id, ids=ids, attempts=attempts)
    return [_read(row, worker_id) for row in rows]


async def claim_next(conn: Connection, worker_id: UUID, queues: list[str], limit: int) -> list[Claim]:
    """Claim up to `limit` jobs that are ready on `queues`: by priority, then by age, passing over locked rows."""
    rows = await _CLAIM_NEXT.rows(conn, worker_id=worker_id, queues=queues, limit=limit)
    return [_read(row, worker_id) for row in rows]


async def known(conn: Connection, ids: list[UUID]) -> set[UUID]:
    """Which of `ids` the ledger has."""
    return {row[0] for row in await _KNOWN.rows(conn, ids=ids)}


def _read(row: Sequence[Any], worker_id: UUID) -> Claim:
    (
        job_id, tenant, type_, queue, status, priority, attempt, max_attempts, payload, tags,
        metadata, created_at, run_at, expires_at, started_at, crashes, retry, timeout, traceparent,
        parent_id, root_id, depth, _,
    ) = row  # fmt: skip
    job = Job(
        id=job_id, tenant=tenant, type=type_, queue=queue, status=status, priority=priority, attempt=attempt,
        max_attempts=max_attempts, payload=payload, tags=tags, metadata=metadata, created_at=created_at,
        run_at=run_at, expires_at=expires_at, started_at=started_at, parent_id=parent_id, root_id=root_id,
        depth=depth,
    )  # fmt: skip
    return Claim(job=job, worker_id=worker_id, crashes=crashes, retry=retry, timeout=timeout, traceparent=traceparent)


OPEN_LEASE = """
    SELECT t.job_id, t.attempt FROM attempts t JOIN jobs j ON j.id = t.job_id
    WHERE t.job_id = :job_id AND t.attempt = :attempt AND t.worker_id = :worker_id AND t.finished_at IS NULL
      AND j.status = 'running' AND j.attempt = t.attempt
"""
"""One row while the lease holds; its parameters are those of `lease_values`."""


def lease_values(lease: Lease) -> dict[str, object]:
    return {"job_id": lease.job_id, "attempt": lease.attempt, "worker_id": lease.worker_id}
