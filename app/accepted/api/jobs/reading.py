"""GET /jobs/{id} and /jobs/{id}/attempts. ETags and long polls make polling cheap."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Header, Query
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON, header_docs, matches
from accepted.api.http.auth import Reader, documented, unless_revoked
from accepted.api.http.parameters import Listing, Page, Whole, as_many_as_fit, in_chunks, only_query
from accepted.api.http.problems import REFUSALS, responses_for
from accepted.api.jobs.answers import ErrorView, JobView, body_and_etag, retry_after
from accepted.api.state import State, state_of
from accepted.domain import cursor
from accepted.domain.ids import age_of
from accepted.domain.job import Job
from accepted.errors import Gone, ResourceNotFound
from accepted.storage.db.engine import reading
from accepted.storage.jobs.manual_retry import Edit, edits_after
from accepted.storage.jobs.reading import Attempt, attempts_after

router = APIRouter(tags=["jobs"], dependencies=documented)

MAX_WAIT = 60
"""Seconds; contract section 4."""

_POLLED = header_docs("ETag", "Cache-Control", "Retry-After")


class AttemptView(BaseModel):
    """One run of a job by a worker."""

    attempt: int
    worker: str = Field(description="Its id in `GET /workers`, if it is a worker process.")
    worker_name: str | None = Field(description="Where it runs: host and pid, or what an HTTP worker calls itself.")
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    error: ErrorView | None
    traceback: str | None


class EditView(BaseModel):
    """A payload that was replaced when the job was replayed."""

    after_attempt: int
    payload_before: dict[str, Any]
    edited_at: datetime
    edited_by: str


class AttemptPage(BaseModel):
    """A page of attempts, the first one first; `next` is the cursor of the next page."""

    items: list[AttemptView]
    next: str | None
    edits: list[EditView] = Field(default=[], description="Payloads that were replaced after these attempts, if any.")


@router.get(
    "/jobs/{job_id}",
    response_model=JobView,
    dependencies=[Depends(only_query("wait"))],
    responses={
        200: {"description": "The job.", "headers": _POLLED},
        304: {"description": "The given ETag still holds.", "headers": _POLLED},
        **responses_for(errors.ResourceNotFound, errors.Gone, *REFUSALS),
    },
)
async def get(
    request: Request,
    who: Reader,
    job_id: UUID,
    wait: Annotated[Whole | None, Query(ge=0, le=MAX_WAIT)] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The job. With `wait`, as soon as it differs from If-None-Match (or, without it, changes its status)."""
    state = state_of(request)
    job = await find(state, who.tenant, job_id)
    if wait and not job.finished:
        async with unless_revoked(request, "jobs:read"):
            job = unless_deleted(await _changed(state, job, if_none_match, wait))
    body, etag = body_and_etag(job)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if not job.finished:
        headers["Retry-After"] = retry_after(job)
    if matches(if_none_match, etag):
        return Response(None, 304, headers)
    return Response(body, 200, headers, media_type=JSON)


@router.get(
    "/jobs/{job_id}/attempts",
    response_model=AttemptPage,
    responses={
        200: {"description": "A page.", "headers": header_docs("Link")},
        **responses_for(errors.ResourceNotFound, errors.Gone, *REFUSALS),
    },
)
async def attempts(request: Request, who: Reader, job_id: UUID, query: Annotated[Page, Query()]) -> Response:
    """Every attempt so far, including a running one, and each payload that a replay replaced."""
    state = state_of(request)
    job = await find(state, who.tenant, job_id)
    listing = Listing(f"/jobs/{job_id}/attempts", who.tenant, query)
    after = listing.begin(cursor.read_number)
    async with reading(state.engine) as conn:
        found = await attempts_after(conn, job_id, after or 0, query.limit + 1)
        edits = await _edits(conn, job, after, query.limit) if found else []
    page, sizes = found[: query.limit], {edit.attempt: len(edit.payload_before) for edit in edits}
    shown = as_many_as_fit([_attempt(one) for one in page], [sizes.get(one.attempt, 0) for one in page])
    with_them = [_edit(edit) for edit in edits if edit.attempt <= page[len(shown) - 1].attempt]
    return listing.answer(
        found,
        shown,
        lambda one, scope: cursor.write_number(one.attempt, scope),
        {"edits": with_them} if with_them else {},
    )


async def find(state: State, tenant: str, job_id: UUID) -> Job:
    """The tenant's job. Raises `Gone` for a deleted one and an id older than the retention, else `ResourceNotFound`."""
    job = await state.watcher.job(job_id)
    if job is not None and job.tenant == tenant:
        return unless_deleted(job)
    age = age_of(job_id, datetime.now(UTC))
    if age is not None and age > state.settings.retention:
        raise Gone("this job is past its retention")
    raise ResourceNotFound("no such job")


def unless_deleted(job: Job) -> Job:
    """Raises `Gone` for a deleted job."""
    if job.deleted_at is not None:
        raise Gone("this job was deleted")
    return job


async def _edits(conn: AsyncConnection, job: Job, after: int | None, limit: int) -> Sequence[Edit]:
    if not job.retried_after:  # only a replay edits a payload, so most jobs need no query
        return []
    return await in_chunks(
        lambda behind, count: edits_after(conn, job.id, -1 if behind is None else behind, count),
        after, limit, lambda edit: edit.attempt, lambda edit: len(edit.payload_before),
    )  # fmt: skip


async def _changed(state: State, job: Job, if_none_match: str | None, seconds: float) -> Job:
    def differs(now: Job) -> bool:
        if if_none_match is None:
            return now.status != job.status
        return not matches(if_none_match, body_and_etag(now)[1])

    return await state.watcher.wait(job.id, differs, seconds) or job


def _attempt(attempt: Attempt) -> dict[str, object]:
    return {
        "attempt": attempt.attempt,
        "worker": attempt.worker,
        "worker_name": attempt.worker_name,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "outcome": attempt.outcome,
        "error": None if attempt.error is None else msgspec.Raw(attempt.error.encode()),
        "traceback": attempt.traceback,
    }


def _edit(edit: Edit) -> dict[str, object]:
    return {
        "after_attempt": edit.attempt,
        "payload_before": msgspec.Raw(edit.payload_before.encode()),
        "edited_at": edit.edited_at,
        "edited_by": edit.edited_by,
    }
