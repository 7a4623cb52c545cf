"""The shapes of answers, as the OpenAPI document shows them. Answers are built from `accepted.domain.job.to_wire`."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from accepted.domain.failures import FailureClass, OnNotFound
from accepted.domain.job import Status


class ErrorView(BaseModel):
    """Why the last attempt failed."""

    class_: FailureClass = Field(alias="class")
    message: str
    attempt: int


class LinksView(BaseModel):
    self: str
    events: str
    cancel: str


class JobView(BaseModel):
    """A job (contract section 3)."""

    id: UUID
    type: str
    queue: str
    status: Status
    priority: int
    attempt: int
    max_attempts: int
    payload: dict[str, Any]
    result: Any | None
    error: ErrorView | None
    progress: dict[str, Any] | None
    tags: list[str]
    metadata: dict[str, str]
    ordering_key: str | None
    batch_id: UUID | None
    parent_id: UUID | None
    root_id: UUID
    created_at: datetime
    run_at: datetime
    expires_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    links: LinksView


class SubmittedView(JobView):
    """A job, with `duplicate` where it was there before, by another submission with its `unique` key."""

    duplicate: Literal[True] = Field(default=True, description="only there if it is so")


class JobPage(BaseModel):
    """A page of jobs, newest first; `next` is the cursor of the next one."""

    items: list[JobView]
    next: str | None


class MemberView(BaseModel):
    """A job of a workflow, and the refs of those that it waits for."""

    ref: str
    id: UUID
    status: Status
    depends_on: list[str]


class BatchView(BaseModel):
    """A batch, and what its jobs have come to: how many there are in each status, where there are any."""

    id: UUID
    total: int
    counts: dict[Status, int]
    finished: bool
    created_at: datetime
    finished_at: datetime | None
    jobs: list[MemberView] = Field(default=[], description="Of a workflow.")


class AttemptView(BaseModel):
    """One run of a job by a worker."""

    attempt: int
    worker: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    error: ErrorView | None
    traceback: str | None


class EditView(BaseModel):
    """A payload that somebody replaced as he replayed the job, and what it was before."""

    after_attempt: int
    payload_before: dict[str, Any]
    edited_at: datetime
    edited_by: str


class AttemptList(BaseModel):
    items: list[AttemptView]
    edits: list[EditView] = Field(default=[], description="Payloads that a replay has replaced, if any.")


class RetryView(BaseModel):
    max_attempts: int
    schedule: list[float]
    jitter: float


class JobTypeView(BaseModel):
    """A type that a worker has registered."""

    name: str
    description: str
    queue: str
    retry: RetryView
    timeout: float | None
    not_found: OnNotFound
    external: bool = Field(description="Registered by PUT: run by workers that lease its jobs over HTTP.")
    payload_schema: dict[str, Any]


class JobTypeList(BaseModel):
    items: list[JobTypeView]


class LeasedView(BaseModel):
    """A job to run, and the lease under which it is run."""

    lease: str
    job: JobView
    expires_at: datetime


class LeaseList(BaseModel):
    items: list[LeasedView]


class LeaseView(BaseModel):
    """A lease that holds, and whether its job is to be cancelled."""

    lease: str
    expires_at: datetime
    cancelled: bool


class SecretView(BaseModel):
    """The secret that webhooks are signed with, and those that a rotation is replacing."""

    secret: str
    previous: list[str]


class TargetView(BaseModel):
    """A host whose last call failed (`closed`: it is still called), or that is deferred (`open`), or is to be tried
    by the next job for it (`half_open`)."""

    host: str
    state: Literal["closed", "open", "half_open"]
    failures: int = Field(description="In a row.")
    reason: FailureClass
    deferred_until: datetime | None
    updated_at: datetime


class TargetList(BaseModel):
    items: list[TargetView]


class ReleasedView(BaseModel):
    """`released` is the number of jobs that waited for the host."""

    host: str
    released: int


class Readiness(BaseModel):
    status: Literal["ok", "unavailable"]
    ledger: str
    broker: str


class Alive(BaseModel):
    status: Literal["ok"]
