"""What an attempt writes: the results of its steps, its progress and its outcome, each behind the fence.

An outcome is running -> anything: the one place where the transitions of `accepted.domain.transitions` reach the
ledger. A step locks its row in `attempts`, so a rescue of the attempt comes either before, and the step is refused, or
after, and the next attempt reads it.
"""

from collections.abc import Mapping

import msgspec

from accepted.domain.failures import pattern
from accepted.domain.job import ALERT_TYPE, FINISHED, Status
from accepted.domain.references import Lease
from accepted.domain.transitions import ON_REQUEST, Transition
from accepted.storage.attempts.claims import ENDS_ALONE, OPEN_LEASE, STILL_OPEN, lease_values
from accepted.storage.counts.letter_groups import GROUP_KEY
from accepted.storage.db.notifications import ANNOUNCE
from accepted.storage.db.statements import Connection, Statement
from accepted.storage.jobs.cancellation import CHANGE_COLUMNS, StatusChange, status_change

_APPLY = Statement(f"""
WITH transition AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:ids AS uuid[]), CAST(:attempts AS int4[]), CAST(:worker_ids AS uuid[]), CAST(:statuses AS text[]),
        CAST(:outcomes AS text[]), CAST(:results AS text[]), CAST(:errors AS text[]), CAST(:waits AS float8[]),
        CAST(:crashes AS int4[]), CAST(:extra AS int4[]), CAST(:finished AS bool[]),
        CAST(:tracebacks AS text[]), CAST(:progress AS text[]), CAST(:answers AS text[]), CAST(:targets AS text[]),
        CAST(:patterns AS text[])
    ) AS a(job_id, attempt, worker_id, status, outcome, result, error, wait, crashes, extra, finished, traceback,
           progress, answer, target, pattern)
), locked AS MATERIALIZED (
    SELECT j.id FROM jobs j JOIN transition a ON a.job_id = j.id
    WHERE j.status = 'running' AND j.attempt = a.attempt AND (NOT CAST(:only_alone AS bool) OR {ENDS_ALONE})
    ORDER BY j.id FOR UPDATE OF j
), closed AS (
    UPDATE attempts t SET
        finished_at = now(), outcome = a.outcome, error = CAST(a.error AS json), traceback = a.traceback,
        answer = CAST(a.answer AS json), target = a.target
    FROM transition a JOIN locked l ON l.id = a.job_id
    WHERE t.job_id = a.job_id AND t.attempt = a.attempt AND t.worker_id = a.worker_id AND {STILL_OPEN}
    RETURNING t.job_id, t.cancel_requested_at IS NOT NULL AND NOT a.finished AS cancel
), moved AS (
    UPDATE jobs j SET
        status = CASE WHEN c.cancel THEN 'cancelled' ELSE a.status END, result = CAST(a.result AS json),
        error = CASE WHEN c.cancel
                     THEN json_build_object('class', 'cancelled', 'message', '{ON_REQUEST}', 'attempt', a.attempt)
                     ELSE CAST(a.error AS json) END,
        progress = COALESCE(CAST(a.progress AS json), j.progress),
        crashes = j.crashes + a.crashes, max_attempts = j.max_attempts + a.extra,
        run_at = CASE WHEN a.wait > 0 AND NOT c.cancel THEN now() + a.wait * interval '1 second' ELSE j.run_at END,
        finished_at = CASE WHEN a.finished OR c.cancel THEN now() END
    FROM transition a JOIN closed c ON c.job_id = a.job_id
    WHERE j.id = a.job_id AND j.status = 'running' AND j.attempt = a.attempt
    RETURNING {CHANGE_COLUMNS}, j.queue, j.attempt, j.priority, j.expires_at, j.tenant, j.type, j.concurrency_key,
              a.error, a.pattern, CASE WHEN NOT c.cancel THEN a.wait END AS wait
), waiting AS (
    INSERT INTO outbox (job_id, attempt, tenant, queue, priority, due_at, published, expires_at, concurrency_key)
    SELECT id, attempt, tenant, queue, priority, now() + wait * interval '1 second', false, expires_at, concurrency_key
    FROM moved WHERE wait IS NOT NULL
), dead AS (
    INSERT INTO dead_letters (job_id, tenant, queue, type, class, message, group_key, alerted_at)
    SELECT id, tenant, queue, type, class, message, {GROUP_KEY}, CASE WHEN type = '{ALERT_TYPE}' THEN now() END
    FROM moved CROSS JOIN LATERAL json_to_record(CAST(error AS json)) AS e(class text, message text)
    WHERE status = 'failed'
)
SELECT id, status, wants_webhook, has_dependents, {ANNOUNCE.format(rows="moved")} FROM moved
""")
"""One statement for a whole batch, because outcome, attempt, outbox row and dead letter must change together, and each
round trip costs as much as the rows. If a cancel was requested, an outcome that would run the job again ends it. The
dead letter of a job that is itself an alert counts as alerted, so that it causes no other alert.
"""

_RECALL_STEPS = Statement(f"""
WITH lease AS MATERIALIZED ({OPEN_LEASE})
SELECT s.name, CAST(s.result AS text) AS result FROM lease l LEFT JOIN steps s ON s.job_id = l.job_id
""")

_REMEMBER_STEP = Statement(f"""
WITH lease AS MATERIALIZED ({OPEN_LEASE} FOR NO KEY UPDATE OF t), written AS (
    INSERT INTO steps (job_id, name, attempt, result)
    SELECT job_id, :name, attempt, CAST(CAST(:result AS text) AS json) FROM lease
    ON CONFLICT (job_id, name) DO NOTHING
)
SELECT count(*) FROM lease
""")

_WRITE_PROGRESS = Statement(f"""
WITH reported AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:ids AS uuid[]), CAST(:attempts AS int4[]), CAST(:worker_ids AS uuid[]), CAST(:progress AS text[])
    ) AS r(job_id, attempt, worker_id, progress)
), locked AS MATERIALIZED (
    SELECT j.id FROM jobs j
    JOIN reported r ON r.job_id = j.id
    JOIN attempts t ON t.job_id = r.job_id AND t.attempt = r.attempt AND t.worker_id = r.worker_id
    WHERE j.status = 'running' AND j.attempt = r.attempt AND {STILL_OPEN}
    ORDER BY j.id FOR NO KEY UPDATE OF j
), changed AS (
    UPDATE jobs j SET progress = CAST(r.progress AS json)
    FROM reported r JOIN locked l ON l.id = r.job_id
    WHERE j.id = r.job_id AND j.status = 'running' AND j.attempt = r.attempt
    RETURNING j.id
)
SELECT {ANNOUNCE.format(rows="changed")}
""")


async def apply(conn: Connection, batch: list[Transition], only_alone: bool = False) -> list[StatusChange]:
    """Apply each transition whose fence holds, and return what changed. The caller commits.

    A job may be in `batch` once. `only_alone` leaves out jobs from whose end something follows.
    """
    rows = await _APPLY.rows(
        conn,
        ids=[t.running.job_id for t in batch],
        attempts=[t.running.attempt for t in batch],
        worker_ids=[t.running.worker_id for t in batch],
        statuses=[str(t.status) for t in batch],
        outcomes=[str(t.outcome) for t in batch],
        results=[t.result for t in batch],
        errors=[t.error for t in batch],
        waits=[t.wait for t in batch],
        crashes=[t.crashes for t in batch],
        extra=[t.extra_attempts for t in batch],
        finished=[t.status in FINISHED for t in batch],
        tracebacks=[t.traceback for t in batch],
        progress=[t.progress for t in batch],
        answers=[t.answer for t in batch],
        targets=[t.target for t in batch],
        patterns=[_pattern(t) for t in batch],
        only_alone=only_alone,
    )
    return [status_change(row) for row in rows]


def _pattern(transition: Transition) -> str | None:
    """That of the message of a job that becomes a dead letter."""
    if transition.status != Status.FAILED or transition.error is None:
        return None
    return pattern(msgspec.json.decode(transition.error)["message"])


async def recall_steps(conn: Connection, lease: Lease) -> dict[str, str] | None:
    """The results of the job's steps by name, as JSON text; None if the lease does not hold."""
    rows = await _RECALL_STEPS.rows(conn, **lease_values(lease))
    return {row["name"]: row["result"] for row in rows if row["name"] is not None} if rows else None


async def remember_step(conn: Connection, lease: Lease, name: str, result: str) -> bool:
    """Write the result of a step. False: the lease does not hold, and nothing is written. The caller commits.

    A result that exists stays: this attempt wrote it in a commit whose answer was lost.
    """
    return bool(await _REMEMBER_STEP.value(conn, **lease_values(lease), name=name, result=result))


async def write_progress(conn: Connection, progress: Mapping[Lease, str]) -> None:
    """Write the latest progress of attempts, as JSON text; skips those whose lease has ended. The caller commits."""
    await _WRITE_PROGRESS.run(
        conn,
        ids=[lease.job_id for lease in progress],
        attempts=[lease.attempt for lease in progress],
        worker_ids=[lease.worker_id for lease in progress],
        progress=list(progress.values()),
    )
