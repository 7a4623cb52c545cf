"""queued -> running. A claim deletes the outbox row, counts the attempt and opens its lease, in one statement.

The open row in `attempts` is the lease: it holds for as long as its worker's heartbeat is fresh. `OPEN_LEASE` is the
fence of what a running attempt writes.
A row of a limited queue is claimed only if the limiter has admitted it, and not while the queue is paused: whatever
the broker delivers, the limit is kept here.

A worker claims the types that it has handlers for. A row of another type that it meets is set aside: `unserved` then
names the type. No broker has its reference any more, and no worker meets it again; those that serve the type look for
such rows (`unserved_kinds`) and claim them here, and so do lease requests (docs/decisions/0016). On a limited queue it
goes back on hold.
"""

from collections.abc import Sequence
from operator import itemgetter
from uuid import UUID

import msgspec

from accepted.domain.job import Job
from accepted.domain.references import Lease
from accepted.storage.db.notifications import ANNOUNCE
from accepted.storage.db.statements import Connection, Row, Statement
from accepted.storage.jobs.reading import job_columns
from accepted.storage.queues import LIMITED, PAUSED

_JOB_FIELDS = tuple(
    field
    for field in Job.__struct_fields__
    if field not in {"result", "error", "progress", "finished_at", "retried_after"}
)
"""What a running attempt knows of its job."""

_job_values = itemgetter(*_JOB_FIELDS)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A job that `worker_id` now runs, with what its execution and its outcome need. `retry` is JSON text.

    `ends_alone`: no webhook and no other job follows from its end.
    """

    job: Job
    worker_id: UUID
    crashes: int
    retry: str | None
    timeout: float | None
    traceparent: str | None
    in_workflow: bool = False
    ends_alone: bool = False

    @property
    def lease(self) -> Lease:
        return Lease(self.job.id, self.job.attempt, self.worker_id)

    @property
    def waited(self) -> float | None:
        """For how many seconds the job was due before this attempt.

        None where the ledger does not know: when it stopped waiting for others, or when its worker was found dead.
        """
        job = self.job
        if self.in_workflow or self.crashes or job.ordering_key is not None or job.started_at is None:
            return None
        return max((job.started_at - job.run_at).total_seconds(), 0.0)


STILL_OPEN = "COALESCE(t.finished_at, 'infinity') = 'infinity'"
"""Whether the attempt `t`, which is found by its key, is open. With `finished_at IS NULL` PostgreSQL may look for it
among all attempts of its worker that are open, or that were since somebody's transaction began."""

OPEN_LEASE = f"""
    SELECT t.job_id, t.attempt FROM attempts t JOIN jobs j ON j.id = t.job_id
    WHERE t.job_id = :job_id AND t.attempt = :attempt AND t.worker_id = :worker_id AND {STILL_OPEN}
      AND j.status = 'running' AND j.attempt = t.attempt
"""
"""The fence: one row while the lease of `lease_values` holds."""

ENDS_ALONE = "(j.callback_url IS NULL AND NOT j.has_dependents)"
"""Whether nothing else changes when `jobs j` ends. Both are as its submission wrote them."""

ALLOWED = f"NOT o.on_hold AND o.queue <> ALL(CASE WHEN o.admitted THEN {PAUSED} ELSE {LIMITED} END)"
"""The condition on `outbox o` under which a row may be claimed, however its reference was delivered."""

_LOCK_REFS = f"""
    SELECT o.job_id, o.attempt FROM outbox o
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int4[])) AS w(job_id, attempt) USING (job_id, attempt)
    WHERE {ALLOWED} AND o.unserved = '' AND (o.expires_at IS NULL OR o.expires_at > now())
    ORDER BY o.job_id FOR UPDATE OF o
"""

_READY = """
        SELECT o.job_id, o.attempt, o.priority, o.due_at FROM outbox o
        WHERE {condition} AND o.queue = q.name AND o.unserved = {unserved} AND o.published AND NOT o.on_hold
          AND (o.expires_at IS NULL OR o.expires_at > now())
        ORDER BY o.priority DESC, o.due_at LIMIT :limit FOR UPDATE SKIP LOCKED
"""

_LOCK_NEXT = f"""
    SELECT ready.job_id, ready.attempt FROM unnest(CAST(:queues AS text[])) AS q(name)
    CROSS JOIN LATERAL (
        SELECT * FROM ({_READY.format(condition=f"q.name <> ALL({LIMITED})", unserved="''")}) AS free
        UNION ALL
        SELECT * FROM ({
    _READY.format(condition=f"q.name = ANY({LIMITED}) AND q.name <> ALL({PAUSED}) AND o.admitted", unserved="''")
}) AS admitted
    ) AS ready
    ORDER BY ready.priority DESC, ready.due_at LIMIT :limit
"""
"""Limited queues have a part of their own, because many of their rows may be published and not admitted: a filter would
read them one by one."""

_LOCK_UNSERVED = f"""
    SELECT ready.job_id, ready.attempt
    FROM unnest(CAST(:queues AS text[]), CAST(:kinds AS text[])) AS q(name, type)
    CROSS JOIN LATERAL ({_READY.format(condition=ALLOWED, unserved="q.type")}) AS ready
    ORDER BY ready.priority DESC, ready.due_at LIMIT :limit
"""

RUN = f"""
taken AS (
    DELETE FROM outbox o USING locked l WHERE o.job_id = l.job_id AND o.attempt = l.attempt
), running AS (
    UPDATE jobs j SET status = 'running', attempt = j.attempt + 1, started_at = clock_timestamp(), progress = NULL
    FROM locked l
    WHERE j.id = l.job_id AND j.attempt = l.attempt AND j.status IN ('queued', 'scheduled', 'retrying')
    RETURNING {job_columns(_JOB_FIELDS, "j")}, j.crashes, CAST(j.retry AS text) AS retry, j.timeout, j.traceparent,
              j.ref IS NOT NULL AS in_workflow, {ENDS_ALONE} AS ends_alone
)"""
"""Deletes the outbox rows `locked` and makes their jobs `running`. `started_at` is not now(), the time of BEGIN: a row
may have come due since then."""

_SERVED = "(CAST(:types AS text[]) IS NULL OR type = ANY(CAST(:types AS text[])))"


def _claim(lock: str) -> Statement:
    return Statement(f"""
WITH found AS MATERIALIZED ({lock}), typed AS MATERIALIZED (
    SELECT f.job_id, f.attempt, j.type, j.run_at
    FROM found f LEFT JOIN LATERAL (SELECT type, run_at FROM jobs WHERE id = f.job_id OFFSET 0) AS j ON true
), locked AS MATERIALIZED (
    SELECT job_id, attempt FROM typed WHERE type IS NULL OR {_SERVED}
), foreign_types AS MATERIALIZED (
    SELECT job_id, type, run_at FROM typed WHERE type IS NOT NULL AND NOT {_SERVED}
), set_aside AS (
    UPDATE outbox o SET
        unserved = f.type, admitted = false, published = o.queue <> ALL({LIMITED}), on_hold = o.queue = ANY({LIMITED}),
        due_at = CASE WHEN o.queue = ANY({LIMITED}) THEN f.run_at ELSE LEAST(o.due_at, now()) END
    FROM foreign_types f WHERE o.job_id = f.job_id AND o.job_id = ANY(ARRAY(SELECT job_id FROM foreign_types))
    RETURNING o.job_id
), {RUN}, leased AS (
    INSERT INTO attempts (job_id, attempt, worker_id, started_at)
    SELECT id, attempt, CAST(:worker_id AS uuid), started_at FROM running
)
SELECT running.*, aside.ids AS set_aside, {ANNOUNCE.format(rows="running")}
FROM (SELECT array_agg(job_id) AS ids FROM set_aside) AS aside LEFT JOIN running ON true
""")


_CLAIM_REFS = _claim(_LOCK_REFS)
_CLAIM_NEXT = _claim(_LOCK_NEXT)
_CLAIM_UNSERVED = _claim(_LOCK_UNSERVED)
"""One statement, because outbox row, job and lease must change together; it is the hot path of every worker. Its first
row has the ids that were set aside, also if nothing was claimed."""

UNSERVED_KINDS = """
WITH RECURSIVE kinds AS (
    (SELECT queue, unserved FROM outbox WHERE published AND unserved <> '' ORDER BY queue, unserved LIMIT 1)
    UNION ALL
    SELECT n.queue, n.unserved FROM kinds k CROSS JOIN LATERAL (
        SELECT queue, unserved FROM outbox
        WHERE published AND unserved <> '' AND (queue, unserved) > (k.queue, k.unserved)
        ORDER BY queue, unserved LIMIT 1
    ) AS n
)
"""
"""The beginning of a statement on `kinds`: queue and type of the jobs that were set aside. A loose index scan: a probe
for each kind, and none for the jobs behind it."""

_UNSERVED_KINDS = Statement(f"{UNSERVED_KINDS} SELECT queue, unserved FROM kinds")

_KNOWN = Statement("SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")


class Claimed(list[Claim]):
    """What was claimed; `set_aside` are the jobs that were met and whose type this worker does not serve."""

    set_aside: frozenset[UUID] = frozenset()


async def claim_refs(
    conn: Connection, worker_id: UUID, refs: list[tuple[UUID, int]], types: list[str] | None = None
) -> Claimed:
    """Claim the jobs that messages refer to, as (id, attempt), of these types (None: of any).

    A stale or duplicate reference yields nothing. Waits for locked rows, because the lock may be the relay's and this
    message the only one. The caller commits.
    """
    ids, attempts = [r[0] for r in refs], [r[1] for r in refs]
    rows = await _CLAIM_REFS.rows(conn, worker_id=worker_id, ids=ids, attempts=attempts, types=types)
    return _claimed(rows, worker_id)


async def claim_next(
    conn: Connection, worker_id: UUID, queues: list[str], limit: int, types: list[str] | None = None
) -> Claimed:
    """Claim up to `limit` ready jobs of `queues` by priority, then by age, of these types (None: of any).

    Skips locked rows. The caller commits.
    """
    rows = await _CLAIM_NEXT.rows(conn, worker_id=worker_id, queues=queues, limit=limit, types=types)
    return _claimed(rows, worker_id)


async def claim_unserved(conn: Connection, worker_id: UUID, kinds: Sequence[tuple[str, str]], limit: int) -> Claimed:
    """As `claim_next`, of the jobs that were set aside and are of these (queue, type)."""
    queues, types = [queue for queue, _ in kinds], [type_ for _, type_ in kinds]
    rows = await _CLAIM_UNSERVED.rows(
        conn, worker_id=worker_id, queues=queues, kinds=types, limit=limit, types=types
    )  # fmt: skip
    return _claimed(rows, worker_id)


async def unserved_kinds(conn: Connection) -> list[tuple[str, str]]:
    """The (queue, type) of the jobs that were set aside and may be claimed."""
    return [(row["queue"], row["unserved"]) for row in await _UNSERVED_KINDS.rows(conn)]


async def known(conn: Connection, ids: list[UUID]) -> set[UUID]:
    """Which of `ids` the ledger has."""
    return {row["id"] for row in await _KNOWN.rows(conn, ids=ids)}


def lease_values(lease: Lease) -> dict[str, object]:
    """The values of `OPEN_LEASE`."""
    return {"job_id": lease.job_id, "attempt": lease.attempt, "worker_id": lease.worker_id}


def _claimed(rows: Sequence[Row], worker_id: UUID) -> Claimed:
    claimed = Claimed(_read(row, worker_id) for row in rows if row["id"] is not None)
    claimed.set_aside = frozenset(rows[0]["set_aside"] or ())
    return claimed


def _read(row: Row, worker_id: UUID) -> Claim:
    return Claim(
        job=Job(**dict(zip(_JOB_FIELDS, _job_values(row), strict=True))),
        worker_id=worker_id,
        crashes=row["crashes"],
        retry=row["retry"],
        timeout=row["timeout"],
        traceparent=row["traceparent"],
        in_workflow=row["in_workflow"],
        ends_alone=row["ends_alone"],
    )
