"""A job as an answer: its schema, its bytes, its ETag, and the headers that say where and when to look again."""

import hashlib
import math
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field
from starlette.responses import Response

from accepted.api.http.answers import JSON, header_docs
from accepted.domain import json_text
from accepted.domain.failures import FailureClass
from accepted.domain.ids import link
from accepted.domain.job import Job, Status, to_wire

LONGEST_PAUSE = 3600
"""Seconds. A job that is due later may still be cancelled or retried sooner."""


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
    """A job (contract section 3). Answers are built by `accepted.domain.job.to_wire`."""

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


class ListedView(JobView):
    """A job in a list, which has the large fields only if they are asked for."""

    payload: dict[str, Any] = Field(default={}, description="only with `include=payload`")
    result: Any | None = Field(default=None, description="only with `include=result`")


class SubmittedView(JobView):
    """A job, with `duplicate` if another submission with the same `unique` key made it."""

    duplicate: Literal[True] = Field(default=True, description="present only if true")


MONITORED = header_docs("Location", "Operation-Location", "Link", "Retry-After")
"""What OpenAPI says of `monitor_headers`."""


def body_and_etag(job: Job) -> tuple[bytes, str]:
    """The representation, and a strong validator that depends on its bytes alone."""
    body = json_text.encode(to_wire(job))
    return body, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def monitor_headers(job: Job) -> dict[str, str]:
    """Where to watch the job, and when to look again."""
    path = link(f"/jobs/{job.id}")
    headers = {"Location": path, "Operation-Location": path, "Link": f'<{path}>; rel="monitor"'}
    if not job.finished:
        headers["Retry-After"] = retry_after(job)
    return headers


def retry_after(job: Job) -> str:
    """Whole seconds until the job may have changed."""
    if job.status not in {Status.SCHEDULED, Status.RETRYING}:
        return "1"
    seconds = (job.run_at - datetime.now(UTC)).total_seconds()
    return str(min(max(math.ceil(seconds), 1), LONGEST_PAUSE))


def answer_accepted(job: Job) -> Response:
    """202 with the job, and where to watch it."""
    return Response(json_text.encode(to_wire(job)), 202, monitor_headers(job), media_type=JSON)
