"""Why a job does not run: reads the `JobSnapshot` that `accepted.domain.explanation` explains."""

from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.broker.base import Broker, checked
from accepted.domain import explanation
from accepted.domain.job import FINISHED, Job, Status
from accepted.domain.network import targets
from accepted.domain.network.targets import CALLING
from accepted.domain.network.urls import UrlRefused
from accepted.domain.snapshot import DeferredTarget, JobSnapshot
from accepted.storage import queue_load
from accepted.storage.db.engine import reading
from accepted.storage.jobs import explain as explaining
from accepted.storage.jobs.explain import JobRow

BROKER_ANSWERS_WITHIN = 2.0
"""Seconds. The broker is asked only about a job that should be running by now."""


async def explain(engine: AsyncEngine, broker: Broker, job: Job, lease_ttl: float) -> dict[str, Any] | None:
    """The body of `GET /jobs/{id}/explain`; None when the job has been pruned meanwhile."""
    async with reading(engine) as conn:
        row = await explaining.row(conn, job.id, lease_ttl, sorted(CALLING))
        if row is None:
            return None
        snapshot = _snapshot(job, row)
        if row.status == Status.BLOCKED:
            snapshot = msgspec.structs.replace(snapshot, needs=await explaining.needs(conn, job.id))
        elif row.status != Status.RUNNING and row.status not in FINISHED:
            snapshot = await _waiting(conn, job, row, snapshot, lease_ttl)
    if not broker.is_ledger and explanation.may_hang_on_broker(snapshot):
        snapshot = msgspec.structs.replace(snapshot, broker=await checked(broker, BROKER_ANSWERS_WITHIN))
    return explanation.wire(snapshot)


async def _waiting(
    conn: AsyncConnection, job: Job, row: JobRow, snapshot: JobSnapshot, lease_ttl: float
) -> JobSnapshot:
    due_at = row.due_at or row.run_at
    return msgspec.structs.replace(
        snapshot,
        target=await _target(conn, row),
        capacity=await explaining.worker_capacity(conn, row.tenant, row.queue, row.type, lease_ttl),
        load=await explaining.load(conn, row.tenant, row.queue, row.concurrency_key),
        position=await explaining.position(conn, job.id, row.queue, job.priority, due_at, row.limited),
        measured=(await queue_load.measured(conn, [row.queue]))[row.queue],
    )


def _snapshot(job: Job, row: JobRow) -> JobSnapshot:
    return JobSnapshot(
        id=job.id, now=row.now, status=row.status, type=row.type, queue=row.queue, attempt=row.attempt,
        max_attempts=row.max_attempts, run_at=row.run_at, finished_at=row.finished_at, error=row.error,
        blockers=row.blockers, concurrency_key=row.concurrency_key, ordering_key=row.ordering_key, due_at=row.due_at,
        due_since=row.due_since, deferred_for=row.deferred_for,
        published=row.published, on_hold=row.on_hold or (row.published and row.limited and not row.admitted),
        admitted=row.admitted or (row.published and not row.limited), holder=row.holder, limits=row.limits,
        external=row.external,
    )  # fmt: skip


async def _target(conn: AsyncConnection, row: JobRow) -> DeferredTarget | None:
    host = row.deferred_for or _called(row)
    if host is None:
        return None
    found = await explaining.target(conn, row.tenant, host)
    if found.reason is None or found.failures is None:
        return DeferredTarget(host, None, "", found.waiting) if row.deferred_for else None
    return DeferredTarget(host, found.deferred_until, targets.trouble(found.reason, found.failures), found.waiting)


def _called(row: JobRow) -> str | None:
    try:
        return None if row.calls is None else targets.key_of(row.calls)
    except UrlRefused:  # its handler reports it
        return None
