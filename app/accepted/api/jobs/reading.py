"""GET /jobs, /jobs/{id} and /jobs/{id}/attempts: polling, made cheap by ETags and long polls."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Header, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON, header_docs, matches
from accepted.api.http.auth import Reader, documented
from accepted.api.http.parameters import Listing, Page, Whole, only_query
from accepted.api.http.problems import responses_for
from accepted.api.jobs.answers import body_and_etag, retry_after
from accepted.api.schemas import AttemptList, JobPage, JobView
from accepted.api.state import State, state_of
from accepted.domain import cursor, json_text
from accepted.domain.ids import age_of
from accepted.domain.job import QUEUE_PATTERN, Job, Status, to_wire
from accepted.errors import FieldError, Gone, InvalidRequest, ResourceNotFound
from accepted.services.jobs.requests import Moment
from accepted.storage.db.engine import reading
from accepted.storage.jobs.manual_retry import Edit, edits_of
from accepted.storage.jobs.reading import Attempt, JobFilter, list_jobs

router = APIRouter(tags=["jobs"], dependencies=documented)

_DENIED = (errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable)

MAX_WAIT = 60


class JobQuery(Page):
    """The query of GET /jobs."""

    status: Status | None = None
    queue: Annotated[str, Field(pattern=QUEUE_PATTERN)] | None = None
    type: Annotated[str, Field(max_length=100)] | None = None
    tag: Annotated[str, Field(max_length=64)] | None = None
    batch_id: UUID | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None


@router.get(
    "/jobs",
    response_model=JobPage,
    responses={
        200: {"description": "A page.", "headers": header_docs("Link")},
        **responses_for(errors.InvalidRequest, *_DENIED),
    },
)
async def list_(request: Request, who: Reader, asked: Annotated[JobQuery, Query()]) -> Response:
    """The tenant's jobs, newest first. Webhook deliveries are listed only by their own type or queue."""
    _refuse_nul(asked)
    listing = Listing("/jobs", who.tenant, asked)
    found = await _page(state_of(request), who.tenant, asked, listing.begin(cursor.read))
    items = [to_wire(job) for job in found[: asked.limit]]
    return listing.answer(found, items, lambda job, scope: cursor.write(job.id, scope))


@router.get(
    "/jobs/{job_id}",
    response_model=JobView,
    dependencies=[Depends(only_query("wait"))],
    responses={
        200: {"description": "The job.", "headers": header_docs("ETag", "Cache-Control", "Retry-After")},
        304: {
            "description": "The ETag given still holds.",
            "headers": header_docs("ETag", "Cache-Control", "Retry-After"),
        },
        **responses_for(errors.ResourceNotFound, errors.Gone, errors.InvalidRequest, *_DENIED),
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
        job = await _changed(state, job, if_none_match, wait)
    body, etag = body_and_etag(job)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if not job.finished:
        headers["Retry-After"] = retry_after(job)
    if matches(if_none_match, etag):
        return Response(None, 304, headers)
    return Response(body, 200, headers, media_type=JSON)


@router.get(
    "/jobs/{job_id}/attempts",
    response_model=AttemptList,
    dependencies=[Depends(only_query())],
    responses=responses_for(errors.ResourceNotFound, errors.Gone, errors.InvalidRequest, *_DENIED),
)
async def attempts(request: Request, who: Reader, job_id: UUID) -> Response:
    """Every run so far, the one that is going on included, and each payload that was replaced between them."""
    state = state_of(request)
    job = await find(state, who.tenant, job_id)
    found = await state.changes.attempts(job_id)
    body: dict[str, Any] = {"items": [_shown(one) for one in found]}
    if edits := await _edits(state, job):
        body["edits"] = [_shown_edit(one) for one in edits]
    return Response(json_text.encode(body), media_type=JSON)


async def find(state: State, tenant: str, job_id: UUID) -> Job:
    """The tenant's job. Raises `Gone` for an id older than the retention, else `ResourceNotFound`."""
    job = await state.changes.job(job_id)
    if job is not None and job.tenant == tenant:
        return job
    age = age_of(job_id, datetime.now(UTC))
    if age is not None and age > state.settings.retention:
        raise Gone("this job is past its retention")
    raise ResourceNotFound("no such job")


async def _edits(state: State, job: Job) -> Sequence[Edit]:
    """None of a job that was never retried, which spares most of them the question."""
    if not job.retried_after:
        return []
    async with reading(state.engine) as conn:
        return await edits_of(conn, job.id)


async def _changed(state: State, job: Job, if_none_match: str | None, seconds: float) -> Job:
    def differs(now: Job) -> bool:
        if if_none_match is None:
            return now.status != job.status
        return not matches(if_none_match, body_and_etag(now)[1])

    return await state.changes.wait(job.id, differs, seconds) or job


async def _page(state: State, tenant: str, asked: JobQuery, before: UUID | None) -> list[Job]:
    wanted = JobFilter(
        status=asked.status, queue=asked.queue, type=asked.type, tag=asked.tag, batch_id=asked.batch_id,
        created_after=asked.created_after, created_before=asked.created_before, before=before,
    )  # fmt: skip
    async with reading(state.engine) as conn:
        return await list_jobs(conn, tenant, wanted, asked.limit + 1)


def _refuse_nul(asked: JobQuery) -> None:
    """PostgreSQL holds no NUL in a text, so nothing can match one."""
    for name in ("type", "tag"):
        if "\0" in (getattr(asked, name) or ""):
            raise InvalidRequest([FieldError(f"/{name}", "must not hold NUL")])


def _shown(attempt: Attempt) -> dict[str, object]:
    return {
        "attempt": attempt.attempt,
        "worker": attempt.worker,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "outcome": attempt.outcome,
        "error": None if attempt.error is None else msgspec.Raw(attempt.error.encode()),
        "traceback": attempt.traceback,
    }


def _shown_edit(edit: Edit) -> dict[str, object]:
    return {
        "after_attempt": edit.attempt,
        "payload_before": msgspec.Raw(edit.payload_before.encode()),
        "edited_at": edit.edited_at,
        "edited_by": edit.edited_by,
    }
