"""What may be asked of webhook deliveries, and the shapes of the answers."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field

from accepted.api.http.parameters import Page
from accepted.api.schemas import ErrorView
from accepted.domain.job import Status


class DeliveryQuery(Page):
    """The query of GET /webhook-deliveries."""

    job_id: Annotated[UUID, Field(description="those that tell of this job")] | None = None
    batch_id: Annotated[UUID, Field(description="those that tell of this batch")] | None = None
    status: Status | None = None


class DeliveryAttemptView(BaseModel):
    """One POST to the receiver, and what came back; nothing that was an answer: `status_code` is null."""

    attempt: int
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    status_code: int | None
    body: str | None = Field(description="Its first 1024 bytes, read as UTF-8.")
    error: ErrorView | None


class DeliveryView(BaseModel):
    """A webhook delivery; `id` is that of its job, and the `webhook-id` unless it is a redelivery.

    `job_id` or `batch_id` is what it tells of. `redelivery_of` is the delivery that had succeeded and is sent again
    by this one, under its `webhook-id`.
    """

    id: UUID
    job_id: UUID | None
    batch_id: UUID | None
    redelivery_of: UUID | None
    url: str
    event: str
    status: Status
    created_at: datetime
    next_attempt_at: datetime | None
    finished_at: datetime | None
    attempts: list[DeliveryAttemptView]


class DeliveryPage(BaseModel):
    """A page of deliveries, newest first; `next` is the cursor of the next one."""

    items: list[DeliveryView]
    next: str | None
