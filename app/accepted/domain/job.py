"""What a job is: its statuses, what is needed to accept one, and how one is shown.

Pure values. `Job` mirrors a row of the ledger; `to_wire` is the JSON of contract section 3, used alike by the
202, by GET and inside webhooks.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

DEFAULT_PRIORITY = 4
DEFAULT_QUEUE = "default"
QUEUE_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
TYPE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""A type's name travels as a short string of AMQP, and is a label of metrics."""

DEFAULT_TIMEOUT = 900.0
"""Seconds for an attempt of a type that names no timeout: long for a call, short for a night."""

WEBHOOK_TYPE = "webhook.deliver"
WEBHOOK_QUEUE = "webhooks"
ALERT_TYPE = "alert.deliver"
INTERNAL_TYPES = (WEBHOOK_TYPE, ALERT_TYPE)
"""Types of our own making. Their jobs are listed only by their own type or queue."""


class Status(StrEnum):
    """Each comment says who moves a job on from there."""

    SCHEDULED = "scheduled"  # the relay, once run_at has come
    BLOCKED = "blocked"  # the end of the job that it waits for
    QUEUED = "queued"  # a worker, by claiming it
    RUNNING = "running"  # its worker's outcome, or the rescuer when that worker is silent
    RETRYING = "retrying"  # the relay, once run_at has come
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


RETRYABLE = frozenset({Status.FAILED, Status.CANCELLED, Status.EXPIRED})
"""Finished, and queued again if somebody asks for it."""

FINISHED = RETRYABLE | {Status.SUCCEEDED}

END_EVENTS = tuple(f"job.{status}" for status in ("succeeded", "failed", "cancelled", "expired"))


class Unique(msgspec.Struct, frozen=True):
    """A key that one job of a tenant has at a time, until its first attempt has `started` or it has `finished`."""

    key: str
    until: str


class NewJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job that was checked and is to be inserted. JSON columns are held as text, ready for the ledger.

    `run_at` and `delay` (seconds) exclude each other; both absent means now, by the ledger's clock. `parent_id` and
    `root_id` are None for a job that nobody's handler submitted; `depth` is how many generations lie between.
    `blockers` counts the jobs that it waits for: with any, it is accepted as blocked. `has_dependents` says that others
    wait for it, or may come to. `ref` is its name in a workflow.
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
    """A job as the ledger holds it. JSON columns are text; times are aware and in UTC; no `root_id`: its own root."""

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
    """After which attempts somebody asked for another run, in order: once for each explicit retry and replay."""
    parent_id: UUID | None = None
    root_id: UUID | None = None
    depth: int = 0
    ordering_key: str | None = None
    batch_id: UUID | None = None

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


def to_wire(job: Job) -> dict[str, Any]:
    """The job of contract section 3. Stored JSON goes through verbatim, it is not parsed again."""
    path = f"/jobs/{job.id}"
    return {
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


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())
