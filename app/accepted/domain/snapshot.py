"""A job and everything that could hold it, read from the ledger at one moment. An explanation is made from it."""

from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from accepted.domain.rates import Measured

FORESEEN = 100 * 366 * 86400.0
"""Seconds. A start later than this cannot be foreseen, and may lie beyond the calendar."""


class Needed(msgspec.Struct, frozen=True):
    """A job that must end first, or succeed (`on_success`). `status` is None if it was pruned."""

    id: UUID
    status: str | None
    on_success: bool


class Holder(msgspec.Struct, frozen=True):
    """The open attempt and its worker. `heard_at` is the last heartbeat, None for an unknown worker."""

    worker: str
    since: datetime
    heard_at: datetime | None
    alive: bool
    cancel_requested: bool


class QueueLimits(msgspec.Struct, frozen=True):
    """The limits of the queue. `next_start` is when the rate limit allows another start.

    `shared`: several tenants use it. `most_of_tenant` jobs of the job's tenant may run at once, over all queues.
    """

    paused: bool = False
    max_running: int | None = None
    rate_jobs: int | None = None
    rate_per: float | None = None
    max_running_per_key: int | None = None
    next_start: datetime | None = None
    shared: bool = False
    most_of_tenant: int | None = None


class WorkerCapacity(msgspec.Struct, frozen=True):
    """Live workers of the queue, those of them that run the type, and the slots of the latter."""

    for_queue: int = 0
    for_type: int = 0
    slots: int = 0
    busy: int = 0


class Load(msgspec.Struct, frozen=True):
    """Jobs of the queue that run or are admitted: in all, of the job's tenant, and of those with the job's concurrency
    key. `everywhere`: the tenant's on all queues."""

    running: int = 0
    of_key: int = 0
    of_tenant: int = 0
    everywhere: int = 0


class QueuePosition(msgspec.Struct, frozen=True):
    """Jobs of the queue that go first: in all, and with the job's concurrency key."""

    ahead: int = 0
    of_key: int = 0


class DeferredTarget(msgspec.Struct, frozen=True):
    """The host that the job would call.

    `until` is None while the host is called, and jobs that were deferred come one after another. `waiting` of them do.
    """

    host: str
    until: datetime | None
    why: str
    waiting: int = 0


class JobSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The job and what could hold it, at `now`. `error` is JSON text; HTTP workers lease jobs of `external` types.

    `published`: the broker has confirmed its reference. `admitted`: no limit of its queue holds it. `due_since` is when
    it became due. `broker` is what the broker said when it was asked; None where the ledger is the broker.
    """

    id: UUID
    now: datetime
    status: str
    type: str
    queue: str
    attempt: int
    max_attempts: int
    run_at: datetime
    finished_at: datetime | None = None
    error: str | None = None
    blockers: int = 0
    concurrency_key: str | None = None
    ordering_key: str | None = None
    due_at: datetime | None = None
    due_since: datetime | None = None
    deferred_for: str | None = None
    broker: str | None = None
    published: bool = False
    admitted: bool = False
    external: bool = False
    on_hold: bool = False
    needs: tuple[Needed, ...] = ()
    holder: Holder | None = None
    limits: QueueLimits = QueueLimits()
    capacity: WorkerCapacity = WorkerCapacity()
    load: Load = Load()
    position: QueuePosition = QueuePosition()
    target: DeferredTarget | None = None
    measured: Measured = Measured()


def expected_start(job: JobSnapshot) -> datetime | None:
    """When the jobs before it will have started, at the measured rate; None where nothing was measured, or later than
    `FORESEEN`."""
    waits = [(job.position.ahead + 1, _pace(job))]
    if job.limits.max_running_per_key is not None and job.concurrency_key is not None:
        waits.append((job.position.of_key + 1, _starts_per_second(job.limits.max_running_per_key, job.measured)))
    seconds = [jobs / pace for jobs, pace in waits if pace]
    return job.now + timedelta(seconds=max(seconds)) if seconds and max(seconds) < FORESEEN else None


def _pace(job: JobSnapshot) -> float | None:
    """Jobs of the queue that start per second: the measured rate of ends, else what its slots allow."""
    slots = min(job.capacity.slots, job.limits.max_running or job.capacity.slots)
    pace = job.measured.rate_out or _starts_per_second(slots, job.measured)
    if job.limits.rate_jobs is None or not job.limits.rate_per:
        return pace
    allowed = job.limits.rate_jobs / job.limits.rate_per
    return allowed if pace is None else min(pace, allowed)


def _starts_per_second(slots: int, measured: Measured) -> float | None:
    return slots / measured.mean_run_time if measured.mean_run_time else None
