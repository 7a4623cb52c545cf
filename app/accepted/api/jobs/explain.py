"""GET /jobs/{id}/explain: why a job is where it is."""

from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.auth import Reader, documented
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import responses_for
from accepted.api.jobs.reading import find
from accepted.api.schemas import ErrorView
from accepted.api.state import state_of
from accepted.domain import json_text
from accepted.domain.job import Status
from accepted.errors import ResourceNotFound
from accepted.services.jobs import explain as explaining

router = APIRouter(tags=["jobs"], dependencies=[*documented, Depends(only_query())])


class NeededView(BaseModel):
    """A job that is waited for; `status` is null where it is not there any more."""

    id: UUID
    status: Status | None
    to: str = Field(description="What it has to do: succeed, or end.")


class ExplanationView(BaseModel):
    """One reason, and what it rests on: which of the further fields there are follows from `reason`."""

    model_config = ConfigDict(extra="allow")

    id: UUID
    status: Status
    reason: str
    detail: str
    due_at: datetime | None = None
    position: int | None = Field(None, description="1: next on its queue.")
    ahead: int | None = None
    expected_start: datetime | None = Field(None, description="From measured rates; null where nothing was measured.")
    waits_for: list[NeededView] = []
    jobs: int | None = Field(None, description="How many jobs it waits for in all.")
    last_error: ErrorView | None = None
    next_attempt: int | None = None
    worker: str | None = None
    since: datetime | None = None
    target: str | None = None
    deferred_until: datetime | None = None
    rate_limit: dict[str, Any] | None = None
    max_running: int | None = None
    max_running_per_key: int | None = None
    running: int | None = None
    concurrency_key: str | None = None


@router.get(
    "/jobs/{job_id}/explain",
    response_model=ExplanationView,
    responses=responses_for(
        errors.ResourceNotFound, errors.Gone, errors.InvalidRequest, errors.Unauthenticated, errors.Forbidden,
        errors.LedgerUnavailable,
    ),
)  # fmt: skip
async def explain(request: Request, who: Reader, job_id: UUID) -> Response:
    """Why the job is where it is, in a sentence and as data; what holds it first, if more than one thing does."""
    state = state_of(request)
    job = await find(state, who.tenant, job_id)
    found = await explaining.explain(state.engine, job, state.settings.lease_ttl)
    if found is None:
        raise ResourceNotFound("no such job")
    return Response(json_text.encode(found), media_type=JSON)
