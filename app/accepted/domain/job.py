"""What a job is: its statuses, its type, the fields of a new job and of a stored one, its JSON.

Pure values. `Job` mirrors a row of the ledger; `to_wire` is the JSON of contract section 3 in the 202, in GET and in
webhooks.
"""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.failures import OnNotFound
from accepted.domain.ids import link
from accepted.domain.json_text import storable
from accepted.domain.retry import Retry
from accepted.domain.tenants import SHARED

DEFAULT_PRIORITY = 4
DEFAULT_QUEUE = "default"
QUEUE_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
TYPE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""The name of a type is an AMQP short string and a label of metrics."""

DEFAULT_TIMEOUT = 900.0
"""Seconds for an attempt of a type that names no timeout."""

WEBHOOK_TYPE = "webhook.deliver"
WEBHOOK_QUEUE = "webhooks"
ALERT_TYPE = "alert.deliver"
RESERVED_QUEUE = f"{WEBHOOK_QUEUE} is the queue of webhook deliveries alone"
"""Why no other type may have `WEBHOOK_QUEUE`, and no other job."""

INTERNAL_TYPES = (WEBHOOK_TYPE, ALERT_TYPE)
"""Types that clients cannot submit. Their jobs are listed only when the type or the queue is asked for."""

MAX_DESCRIPTION = 500
"""Characters of the description of a type."""

LARGE = ("payload", "result")
"""Fields that may have hundreds of kilobytes. Lists of jobs have them only on request."""

MAX_PROGRESS_MESSAGE = 500
"""Characters of a progress message that are kept."""


class Status(StrEnum):
    """Each comment says what moves a job on from there."""

    SCHEDULED = "scheduled"  # the relay, at run_at
    BLOCKED = "blocked"  # the end of the jobs that it waits for
    QUEUED = "queued"  # the claim of a worker
    RUNNING = "running"  # the outcome that its worker records, or the rescuer when the worker's heartbeat stops
    RETRYING = "retrying"  # the relay, at run_at
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


WAITING = frozenset({Status.SCHEDULED, Status.BLOCKED, Status.QUEUED, Status.RETRYING})
"""Not with a worker yet: the job has a row in the outbox."""

RETRYABLE = frozenset({Status.FAILED, Status.CANCELLED, Status.EXPIRED})
"""Finished; a manual retry queues the job again."""

FINISHED = RETRYABLE | {Status.SUCCEEDED}

END_EVENTS = tuple(f"job.{status}" for status in ("succeeded", "failed", "cancelled", "expired"))


class JobType(msgspec.Struct, frozen=True, kw_only=True):
    """A registered type of `tenant`, or one that is shared: what the API needs to accept a job that it cannot run.

    `payload_schema` is JSON Schema as text; `timeout` is in seconds, None means no limit. Clients cannot submit jobs of
    an `internal` type. An `external` type was registered over HTTP, and HTTP workers lease its jobs. `flaw` says why
    the ledger's row cannot be used as it is; then the fields that it is about have their defaults.
    """

    name: str
    description: str
    queue: str
    retry: Retry
    timeout: float | None
    payload_schema: str
    internal: bool = False
    not_found: OnNotFound = OnNotFound.FAIL
    external: bool = False
    tenant: str = SHARED
    updated_at: datetime | None = None
    flaw: str | None = None


class Unique(msgspec.Struct, frozen=True):
    """A key that one job of a tenant has at a time, until its first attempt has `started` or the job has `finished`."""

    key: str
    until: str


class NewJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A checked job, ready to be inserted. JSON columns are text.

    `run_at` and `delay` (seconds) exclude each other; without either the job runs now, by the ledger's clock.
    `parent_id` and `root_id` are None unless a handler submitted the job; `depth` is its distance from the root.
    `blockers` counts the jobs that it waits for: with any, it starts as blocked. `has_dependents` says that other jobs
    wait for it, or may later. `ref` is its name in a workflow.
    """

    id: UUID
    tenant: str
    type: str
    queue: str
    payload: str
    priority: int = DEFAULT_PRIORITY
    max_attempts: int
    retry: str | None = None
    timeout: float | None = None
    run_at: datetime | None = None
    delay: float | None = None
    expires_at: datetime | None = None
    callback_url: str | None = None
    callback_events: tuple[str, ...] = END_EVENTS
    tags: tuple[str, ...] = ()
    metadata: str = "{}"
    traceparent: str | None = None
    parent_id: UUID | None = None
    root_id: UUID | None = None
    depth: int = 0
    concurrency_key: str | None = None
    ordering_key: str | None = None
    unique: Unique | None = None
    batch_id: UUID | None = None
    ref: str | None = None
    blockers: int = 0
    has_dependents: bool = False

    @property
    def ordered(self) -> bool:
        """Whether the job asks for another order than that of arrival: its queue is then limited (docs/waiting.md)."""
        return self.concurrency_key is not None or self.priority != DEFAULT_PRIORITY


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A stored job. JSON columns are text; times are in UTC; without a `root_id` the job is its own root."""

    id: UUID
    tenant: str
    type: str
    queue: str
    status: str
    priority: int
    attempt: int
    max_attempts: int
    payload: str
    result: str | None = None
    error: str | None = None
    progress: str | None = None
    tags: list[str] = []
    metadata: str = "{}"
    created_at: datetime
    run_at: datetime
    expires_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    retried_after: list[int] | None = None
    """For each manual retry and replay, in order, the number of attempts before it."""
    parent_id: UUID | None = None
    root_id: UUID | None = None
    depth: int = 0
    ordering_key: str | None = None
    batch_id: UUID | None = None
    deleted_at: datetime | None = None
    """Since then only the id and the times are left of it."""

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


def as_stored(new: NewJob, status: str, created_at: datetime, run_at: datetime) -> Job:
    """The stored job that `new` has become. The ledger decides the other arguments."""
    given = dict(zip(_SHARED, _shared_values(new), strict=True))
    return Job(**given, status=status, attempt=0, tags=list(new.tags), created_at=created_at, run_at=run_at)


def to_wire(job: Job, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The JSON of contract section 3, but for `leave_out`. Stored JSON is passed on verbatim, without parsing."""
    path = link(f"/jobs/{job.id}")
    shown = {
        "id": job.id,
        "type": job.type,
        "queue": job.queue,
        "status": job.status,
        "priority": job.priority,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "payload": _raw(job.payload),
        "result": _raw(job.result),
        "error": _raw(job.error),
        "progress": _raw(job.progress),
        "tags": job.tags,
        "metadata": _raw(job.metadata),
        "ordering_key": job.ordering_key,
        "batch_id": job.batch_id,
        "parent_id": job.parent_id,
        "root_id": job.root_id or job.id,
        "created_at": job.created_at,
        "run_at": job.run_at,
        "expires_at": job.expires_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "links": {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"},
    }
    for name in leave_out:
        del shown[name]
    return shown


def progress_json(percent: float, message: str = "") -> str:
    """The `progress` of contract section 3. Raises `ValueError` unless `percent` is a number from 0 to 100."""
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
        raise ValueError("percent must be a number from 0 to 100")
    return msgspec.json.encode({"percent": percent, "message": storable(str(message), MAX_PROGRESS_MESSAGE)}).decode()


_SHARED = [
    name for name in Job.__struct_fields__ if name in NewJob.__struct_fields__ and name not in ("tags", "run_at")
]
_shared_values = attrgetter(*_SHARED)


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())
