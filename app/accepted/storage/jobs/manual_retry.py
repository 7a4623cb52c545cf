"""failed, cancelled or expired -> queued, scheduled or blocked, because a client asked for another run.

The attempt number keeps rising, so every fence holds; `max_attempts` rises to the attempt plus what the policy allows.
One transaction chooses and locks the jobs, deletes their dead letters, resets them and writes their outbox rows, so a
job is never both waiting and a dead letter. Its batch is open again.

In a workflow, the jobs that were cancelled because of the job wait again, too. The transaction locks, in id order,
these jobs and everything that they need, so that none of them can end meanwhile: it sees each end, or is seen by it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from accepted.domain.job import WEBHOOK_TYPE
from accepted.domain.retry import Retry
from accepted.storage.db.notifications import ANNOUNCE
from accepted.storage.db.statements import Connection, Row, Statement, struct
from accepted.storage.dead_letters import MATCHES, LetterFilter
from accepted.storage.jobs import dependencies
from accepted.storage.jobs.ordering import Line
from accepted.storage.queue_tenants import Pair
from accepted.storage.workers import type_of

_AGAIN = Statement(f"""
WITH chosen AS MATERIALIZED (
    SELECT c.id, c.due_at, (
        SELECT count(*) FROM dependencies d LEFT JOIN jobs n ON n.id = d.needs
        WHERE d.job_id = c.id AND (
            NOT d.on_success OR n.status <> 'succeeded'
            OR (SELECT u.after FROM unfinished_ends u WHERE u.job_id = d.needs) < d.job_id
        )
    ) AS unmet
    FROM unnest(CAST(:ids AS uuid[]), CAST(:due_ats AS timestamptz[])) AS c(id, due_at)
), moved AS (
    UPDATE jobs j SET
        status = CASE WHEN c.unmet > 0 THEN 'blocked' WHEN c.due_at > now() THEN 'scheduled' ELSE 'queued' END,
        blockers = c.unmet,
        max_attempts = j.attempt + COALESCE(
            CAST(j.retry->>'max_attempts' AS int4),
            (SELECT y.max_attempts FROM {type_of("j")}),
            CAST(:default_attempts AS int4)
        ),
        crashes = 0, result = NULL, error = NULL, progress = NULL, finished_at = NULL, cancelled_by = NULL,
        run_at = c.due_at,
        expires_at = CASE WHEN j.expires_at > GREATEST(c.due_at, now()) THEN j.expires_at END,
        retried_after = array_append(j.retried_after, j.attempt)
    FROM chosen c
    WHERE j.id = c.id AND j.status IN ('failed', 'cancelled', 'expired')
    RETURNING j.id, j.attempt, j.queue, j.priority, j.run_at, j.expires_at, j.concurrency_key, j.batch_id,
              j.status = 'blocked' AS blocked, j.tenant, j.type, j.payload
), locked AS MATERIALIZED (
    SELECT b.id FROM batches b WHERE b.id IN (SELECT batch_id FROM moved) ORDER BY b.id FOR UPDATE
), opened AS (
    UPDATE batches b SET finished_at = NULL FROM locked l WHERE b.id = l.id
), tried_again AS (
    DELETE FROM webhook_urls u USING moved m
    WHERE m.type = '{WEBHOOK_TYPE}' AND u.tenant = m.tenant AND u.url = m.payload->>'url'
), waiting AS (
    INSERT INTO outbox (
        job_id, attempt, tenant, queue, priority, due_at, published, on_hold, expires_at, concurrency_key
    )
    SELECT id, attempt, tenant, queue, priority, CASE WHEN blocked THEN 'infinity' ELSE run_at END, false, blocked,
           expires_at, concurrency_key FROM moved
)
SELECT id, queue, tenant, {ANNOUNCE.format(rows="moved")} FROM moved
""")
"""One statement, because the job, its outbox row, its batch and its webhook URL must change together.

The edge to a job that succeeded counts as unmet until the release from that job has come to it. An `expires_at` before
the new run is dropped, because it would end the job without a run. The new run is not before
now, though the `due_at` of a job behind others may be long past. A delivery that runs again gives its URL another five
days before it is given up.
"""

_WHOLE = "(j.ref IS NULL OR (SELECT b.id FROM batches b WHERE b.id = j.batch_id) IS NOT NULL)"
"""False while the workflow of a job is being pruned: the pruner (`accepted.storage.pruning`) deletes the row of the
workflow first, and results that the job needs may be gone already."""

_CHOOSE = Statement(f"""
SELECT j.id, now() AS due_at, j.has_dependents FROM jobs j
WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.tenant = :tenant AND j.status IN ('failed', 'cancelled', 'expired')
  AND j.deleted_at IS NULL AND j.attempt = (
    SELECT w.attempt FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int4[])) AS w(id, attempt) WHERE w.id = j.id
  ) AND {_WHOLE}
ORDER BY j.id FOR UPDATE OF j
""")

_CHOOSE_LETTERS = Statement(f"""
SELECT id, CAST(:start AS timestamptz) + interval '1 second'
    * (CAST(:step AS float8) * (CAST(:offset AS int8) + row_number() OVER (ORDER BY id) - 1)) AS due_at, has_dependents
FROM (
    SELECT j.id, j.has_dependents FROM dead_letters d JOIN jobs j ON j.id = d.job_id
    WHERE {MATCHES} AND d.failed_at <= :start AND j.status = 'failed' AND {_WHOLE}
    ORDER BY j.id LIMIT :limit FOR UPDATE OF j SKIP LOCKED
) AS locked
""")
"""Jobs are locked before their letters, as in every statement that locks both."""

_CLEAR = Statement("""
WITH discarded AS (
    DELETE FROM discarded_letters WHERE job_id = ANY(CAST(:ids AS uuid[]))
)
DELETE FROM dead_letters WHERE job_id = ANY(CAST(:ids AS uuid[])) RETURNING job_id
""")

_EDIT = Statement("""
WITH kept AS (
    INSERT INTO payload_edits (job_id, attempt, payload_before, edited_by)
    SELECT id, attempt, payload, :edited_by FROM jobs WHERE id = :id
)
UPDATE jobs SET payload = CAST(:payload AS json) WHERE id = :id
""")

_EDITS = Statement("""
SELECT attempt, CAST(payload_before AS text) AS payload_before, edited_at, edited_by
FROM payload_edits WHERE job_id = :id AND attempt > :after ORDER BY attempt LIMIT :limit
""")

_BEHIND = """
    behind AS (
        SELECT unnest(CAST(:ids AS uuid[])) AS id
        UNION
        SELECT d.job_id FROM behind b
        CROSS JOIN LATERAL (
            SELECT * FROM dependencies e WHERE e.needs = b.id AND e.on_success AND e.broken OFFSET 0
        ) AS d
        WHERE (SELECT j.status = 'cancelled' AND j.cancelled_by IS NOT NULL FROM jobs j WHERE j.id = d.job_id)
    )
"""
"""Follows broken edges, through jobs that were cancelled because of one: these have `cancelled_by`. A job that a client
cancelled has none, and stays cancelled."""

_LOCK_WORKFLOW = Statement(f"""
WITH RECURSIVE {_BEHIND}, concerned AS (
    SELECT id FROM behind
    UNION
    SELECT d.needs FROM dependencies d WHERE d.on_success AND d.job_id IN (SELECT id FROM behind)
)
SELECT 1 FROM jobs j WHERE j.id IN (SELECT id FROM concerned) ORDER BY j.id FOR UPDATE
""")

_WITH_JOBS_BEHIND = Statement(f"""
WITH RECURSIVE {_BEHIND}, kept_back AS (
    SELECT d.job_id AS id FROM dependencies d
    WHERE d.on_success AND d.broken AND d.job_id IN (SELECT id FROM behind) AND d.needs NOT IN (SELECT id FROM behind)
    UNION
    SELECT d.job_id FROM kept_back k
    CROSS JOIN LATERAL (
        SELECT * FROM dependencies e WHERE e.needs = k.id AND e.on_success AND e.broken OFFSET 0
    ) AS d
)
SELECT j.id, j.run_at, j.tenant, j.queue, j.ordering_key FROM jobs j
WHERE j.id IN (SELECT id FROM behind) AND j.id NOT IN (SELECT id FROM kept_back)
ORDER BY j.id
""")

_FAILED_NEEDS = Statement("""
SELECT DISTINCT ON (d.job_id) d.job_id, d.needs, n.ref, n.status
FROM dependencies d LEFT JOIN jobs n ON n.id = d.needs
WHERE d.job_id = ANY(CAST(:ids AS uuid[])) AND d.on_success AND d.broken ORDER BY d.job_id, d.needs
""")

_MEND_EDGES = Statement("""
UPDATE dependencies SET broken = false WHERE needs = ANY(CAST(:ids AS uuid[])) AND on_success AND broken
""")


class Edit(msgspec.Struct, frozen=True):
    """A payload that was replaced after `attempt`: the former one as JSON text, when, and by which API key."""

    attempt: int
    payload_before: str
    edited_at: datetime
    edited_by: str


class Chosen(NamedTuple):
    """A job that is to run again at `due_at`. `has_dependents`: others wait for it, or did."""

    id: UUID
    due_at: datetime
    has_dependents: bool


class FailedNeed(msgspec.Struct, frozen=True):
    """A needed job that has ended without success; no ref outside of workflows, no status if it no longer exists."""

    needs: UUID
    ref: str | None
    status: str | None


class Repaired(NamedTuple):
    """A job that waits again; `line` is the line that it has to join again."""

    id: UUID
    run_at: datetime
    line: Line | None


async def choose(conn: Connection, tenant: str, attempts: Mapping[UUID, int]) -> list[Chosen]:
    """Lock those of these jobs that ended without success at this attempt, were not retried since, and whose workflow
    is whole."""
    rows = await _CHOOSE.rows(conn, tenant=tenant, ids=list(attempts), attempts=list(attempts.values()))
    return [_chosen(row) for row in rows]


async def choose_letters(
    conn: Connection, tenant: str, wanted: LetterFilter, start: datetime, offset: int, step: float, limit: int
) -> list[Chosen]:
    """Lock the jobs of up to `limit` matching letters that existed at `start`; skips jobs that are locked.

    The n-th of them runs at `start` plus (offset + n) times `step` seconds.
    """
    values = {"start": start, "offset": offset, "step": step, "limit": limit}
    return [_chosen(row) for row in await _CHOOSE_LETTERS.rows(conn, **wanted.values(tenant), **values)]


async def clear(conn: Connection, ids: Sequence[UUID]) -> set[UUID]:
    """Delete the dead letters of these jobs. Returns the jobs that had one. The caller commits."""
    return set(await _CLEAR.values(conn, ids=list(ids)))


async def again(conn: Connection, chosen: Sequence[tuple[UUID, datetime]]) -> set[Pair]:
    """Let these locked jobs run again, each at its time. Returns their queues and tenants. The caller commits."""
    rows = await _AGAIN.rows(
        conn,
        ids=[job_id for job_id, _ in chosen],
        due_ats=[due_at for _, due_at in chosen],
        default_attempts=Retry().max_attempts,
    )
    return {(row["queue"], row["tenant"]) for row in rows}


async def edit(conn: Connection, job_id: UUID, payload: str, edited_by: str) -> None:
    """Replace the payload of a locked job, and keep the former one. The caller commits."""
    await _EDIT.run(conn, id=job_id, payload=payload, edited_by=edited_by)


async def edits_after(conn: Connection, job_id: UUID, after: int, limit: int) -> Sequence[Edit]:
    """Up to `limit` payloads that a replay has replaced behind attempt `after` (-1: all), in order."""
    return [struct(Edit, row) for row in await _EDITS.rows(conn, id=job_id, after=after, limit=limit)]


async def lock_workflow(conn: Connection, ids: Sequence[UUID]) -> None:
    """Lock these jobs, all jobs that were cancelled behind them, and everything that those need.

    What is unfinished in their workflows stays so until this transaction ends.
    """
    await dependencies.hold_unfinished(conn, ids)
    await _LOCK_WORKFLOW.run(conn, ids=list(ids))


async def failed_needs(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, FailedNeed]:
    """Those of these jobs that need a job which has ended without success, each with such a one."""
    return {row["job_id"]: struct(FailedNeed, row) for row in await _FAILED_NEEDS.rows(conn, ids=list(ids))}


async def with_jobs_behind(conn: Connection, ids: Sequence[UUID]) -> list[Repaired]:
    """These jobs, and those that were cancelled only because of them, each after all that it needs.

    A statement of its own after `lock_workflow`.
    """
    return [
        Repaired(
            row["id"],
            row["run_at"],
            None if row["ordering_key"] is None else Line(row["tenant"], row["queue"], row["ordering_key"]),
        )
        for row in await _WITH_JOBS_BEHIND.rows(conn, ids=list(ids))
    ]


async def mend_edges(conn: Connection, ids: Sequence[UUID]) -> None:
    """Mark the edges to these jobs as whole, so that what needs them waits again, and is not cancelled any more.

    The caller commits.
    """
    await _MEND_EDGES.run(conn, ids=list(ids))
    await dependencies.drop_unfinished(conn, ids)


def _chosen(row: Row) -> Chosen:
    return Chosen(row["id"], row["due_at"], row["has_dependents"])
