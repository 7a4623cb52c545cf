"""Why a job does not run: reads the `JobSnapshot` that `accepted.domain.explanation` explains."""

from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.domain import explanation
from accepted.domain.failures import FailureClass
from accepted.domain.job import FINISHED, WEBHOOK_TYPE, Job, Status
from accepted.domain.network.urls import ANYWHERE, UrlRefused, parse_target
from accepted.domain.snapshot import DeferredTarget, JobSnapshot
from accepted.storage import queue_load
from accepted.storage.db.engine import reading
from accepted.storage.jobs import explain as explaining
from accepted.storage.jobs.explain import JobRow

CALLING = ("http.request", WEBHOOK_TYPE)
"""Types whose payload has the URL that they call."""


async def explain(engine: AsyncEngine, job: Job, lease_ttl: float) -> dict[str, Any] | None:
    """The body of `GET /jobs/{id}/explain`; None when the job has been pruned meanwhile."""
    async with reading(engine) as conn:
        row = await explaining.row(conn, job.id, lease_ttl, CALLING)
        if row is None:
            return None
        snapshot = _snapshot(job, row)
        if row.status == Status.BLOCKED:
            snapshot = msgspec.structs.replace(snapshot, needs=await explaining.needs(conn, job.id))
        elif row.status != Status.RUNNING and row.status not in FINISHED:
            snapshot = await _waiting(conn, job, row, snapshot, lease_ttl)
    return explanation.wire(snapshot)


async def _waiting(
    conn: AsyncConnection, job: Job, row: JobRow, snapshot: JobSnapshot, lease_ttl: float
) -> JobSnapshot:
    due_at = row.due_at or row.run_at
    return msgspec.structs.replace(
        snapshot,
        target=await _target(conn, row),
        capacity=await explaining.worker_capacity(conn, row.tenant, row.queue, row.type, lease_ttl),
        load=await explaining.load(conn, row.queue, row.concurrency_key),
        position=await explaining.position(conn, job.id, row.queue, job.priority, due_at, row.limited),
        measured=(await queue_load.measured(conn, [row.queue]))[row.queue],
    )


def _snapshot(job: Job, row: JobRow) -> JobSnapshot:
    return JobSnapshot(
        id=job.id, now=row.now, status=row.status, type=row.type, queue=row.queue, attempt=row.attempt,
        max_attempts=row.max_attempts, run_at=row.run_at, finished_at=row.finished_at, error=row.error,
        blockers=row.blockers, concurrency_key=row.concurrency_key, ordering_key=row.ordering_key, due_at=row.due_at,
        published=row.admitted or (row.published and not row.limited), on_hold=row.on_hold or row.published,
        holder=row.holder, limits=row.limits,
        external=row.external,
    )  # fmt: skip


async def _target(conn: AsyncConnection, row: JobRow) -> DeferredTarget | None:
    if row.calls is None:
        return None
    try:
        host = parse_target(row.calls, ANYWHERE).host
    except UrlRefused:
        return None
    deferred = await explaining.target(conn, row.tenant, host)
    if deferred is None:
        return None
    until, reason, failures = deferred
    paused = reason == FailureClass.RATE_LIMITED
    return DeferredTarget(host, until, "it asked for a pause" if paused else f"its last {failures} calls have failed")
