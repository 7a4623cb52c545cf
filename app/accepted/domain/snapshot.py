"""What the ledger says of one job and of all that could hold it, at one moment: what an explanation is made from."""

from datetime import datetime
from uuid import UUID

import msgspec

from accepted.domain.rates import Measured


class Needed(msgspec.Struct, frozen=True):
    """A job that has to end (`on_success`: to succeed) first; `status` is None where it was pruned."""

    id: UUID
    status: str | None
    on_success: bool


class Holder(msgspec.Struct, frozen=True):
    """The attempt that is open, and its worker as far as it is known; `heard_at` is its last heartbeat."""

    worker: str
    since: datetime
    heard_at: datetime | None
    alive: bool
    cancel_requested: bool


class QueueLimits(msgspec.Struct, frozen=True):
    """What was set for the queue. `next_start` is when the rate allows another start."""

    paused: bool = False
    max_running: int | None = None
    rate_jobs: int | None = None
    rate_per: float | None = None
    max_running_per_key: int | None = None
    next_start: datetime | None = None


class WorkerCapacity(msgspec.Struct, frozen=True):
    """The live workers: how many serve the queue, how many of those the type, and the slots of the latter."""

    for_queue: int = 0
    for_type: int = 0
    slots: int = 0
    busy: int = 0


class Load(msgspec.Struct, frozen=True):
    """What is running on the queue, or admitted to run next, in all and of the job's own concurrency key."""

    running: int = 0
    of_key: int = 0


class QueuePosition(msgspec.Struct, frozen=True):
    """How many jobs of the queue go first, and how many of those are of its own concurrency key."""

    ahead: int = 0
    of_key: int = 0


class DeferredTarget(msgspec.Struct, frozen=True):
    """The host that the job would call, while nothing is sent there."""

    host: str
    until: datetime
    why: str


class JobSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The job, and all that could hold it, at `now`. `error` is JSON text; an `external` type is leased over HTTP."""

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
    published: bool = False
    external: bool = False
    held: bool = False
    needs: tuple[Needed, ...] = ()
    holder: Holder | None = None
    limits: QueueLimits = QueueLimits()
    capacity: WorkerCapacity = WorkerCapacity()
    load: Load = Load()
    position: QueuePosition = QueuePosition()
    target: DeferredTarget | None = None
    measured: Measured = Measured()
