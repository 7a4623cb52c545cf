"""Batches and workflows: POST /batches, POST /workflows, GET /batches/{id} and POST /batches/{id}/cancel."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Header, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON, RATE_LIMIT, header_docs, quota_headers
from accepted.api.http.auth import Reader, Writer, documented, unless_revoked
from accepted.api.http.body import body_docs, is_ndjson, read_json, read_lines
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import BODY_REFUSALS, REFUSALS, responses_for
from accepted.api.jobs.answers import MONITORED
from accepted.api.jobs.submission import largest_body
from accepted.api.state import State, state_of
from accepted.concurrency import TimeSlices
from accepted.domain import json_text
from accepted.domain.batch import Batch, Node, to_wire
from accepted.domain.ids import age_of, link
from accepted.domain.job import Status
from accepted.domain.json_pieces import Apart, Unread
from accepted.domain.request_headers import LinesFingerprint, MembersFingerprint, read_key
from accepted.errors import Conflict, FieldError, Gone, InvalidRequest, MalformedRequest, ResourceNotFound
from accepted.services.batches.checks import (
    MAX_JOBS,
    BatchQuery,
    BatchRequest,
    Members,
    WorkflowJobRequest,
    WorkflowRequest,
    workflow,
)
from accepted.services.batches.ending import cancel as cancel_batch
from accepted.services.batches.ndjson import NdjsonBatch
from accepted.services.batches.spool import Spool
from accepted.services.batches.submission import BatchReceipt, BatchSubmission
from accepted.services.jobs.validation import checked
from accepted.settings import Settings
from accepted.storage import batches
from accepted.storage.batches import members
from accepted.storage.db.engine import reading

router = APIRouter(tags=["batches"], dependencies=documented)

PATH = "/batches"
OPTIONS = tuple(BatchQuery.model_fields)

COUNTED_IN_A_SECOND = 100_000
"""Members. Each GET of an unfinished batch counts all of them, so a large batch has a longer Retry-After."""

NOT_IN_WORKFLOWS = ("unique", "ordering_key")
"""Fields that a job of a workflow must not have: they would make it wait for a job outside the workflow."""

_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "The batch is committed, with all its jobs.",
        "headers": MONITORED | header_docs("Idempotent-Replayed", *RATE_LIMIT),
    },
}
_SUBMISSION_REFUSALS = (*BODY_REFUSALS, errors.KeyReused, errors.Gone, errors.QuotaExceeded, errors.QueueFull)
_MISSING = (errors.ResourceNotFound, errors.Gone)


class MemberView(BaseModel):
    """A job of a workflow, and the refs of the jobs that it depends on."""

    ref: str
    id: UUID
    status: Status
    depends_on: list[str]


class BatchView(BaseModel):
    """A batch; `counts` has the number of its jobs in each status, without zeros."""

    id: UUID
    total: int
    counts: dict[Status, int]
    finished: bool
    created_at: datetime
    finished_at: datetime | None
    jobs: list[MemberView] = Field(default=[], description="Only of a workflow, and not in a list.")


@router.post(
    PATH,
    status_code=202,
    response_model=BatchView,
    dependencies=[Depends(only_query(*OPTIONS))],
    responses=_ACCEPTED | responses_for(*_SUBMISSION_REFUSALS, errors.UploadsFull, errors.NoRoom),
    openapi_extra=body_docs(BatchRequest, by_lines="A job a line, each as in POST /jobs. Empty lines are skipped."),
)
async def submit(
    request: Request,
    who: Writer,
    options: Annotated[BatchQuery, Query()],
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Accept many jobs, all or none: up to 10,000 as JSON, or up to 1,000,000 as NDJSON, a job a line.

    `spread_over` spreads their run times evenly over that many seconds. With NDJSON the options are in the query.
    """
    state = state_of(request)
    key = _key_of(request, state.settings)
    if is_ndjson(request):
        return await _answer(state, await _by_lines(request, who.tenant, options, key))
    submission = await _from_json(request, who.tenant, options, key)
    return await _answer(state, await state.limited_submissions.accept_batch(submission))


@router.post(
    "/workflows",
    status_code=202,
    response_model=BatchView,
    dependencies=[Depends(only_query())],
    responses=_ACCEPTED | responses_for(*_SUBMISSION_REFUSALS),
    openapi_extra=body_docs(WorkflowRequest),
)
async def submit_workflow(
    request: Request, who: Writer, idempotency_key: Annotated[str | None, Header()] = None
) -> Response:
    """Accept up to 10,000 jobs, all or none. Each runs when all jobs that it `depends_on` have succeeded."""
    state = state_of(request)
    key = _key_of(request, state.settings)
    parsed = await _read_members(request)
    submission = await _from_workflow(state, who.tenant, parsed, request.headers.get("traceparent"), key)
    return await _answer(state, await state.limited_submissions.accept_batch(submission))


@router.get(
    "/batches/{batch_id}",
    response_model=BatchView,
    dependencies=[Depends(only_query())],
    responses={
        200: {"description": "The batch.", "headers": header_docs("Retry-After")},
        **responses_for(*_MISSING, *REFUSALS),
    },
)
async def get(request: Request, who: Reader, batch_id: UUID) -> Response:
    """The batch, with its jobs counted by status. A workflow also lists each job, after the jobs that it depends on."""
    state = state_of(request)
    batch = await find(state, who.tenant, batch_id)
    headers = {} if batch.finished_at is not None else {"Retry-After": _retry_after(batch)}
    return Response(json_text.encode(await _shown(state, batch)), 200, headers, media_type=JSON)


@router.post(
    "/batches/{batch_id}/cancel",
    status_code=202,
    response_model=BatchView,
    dependencies=[Depends(only_query())],
    responses={
        202: {
            "description": "The batch: its waiting jobs are being cancelled, and its running jobs are told to stop.",
            "headers": MONITORED,
        },
        **responses_for(errors.Conflict, *_MISSING, *REFUSALS),
    },
)
async def cancel(request: Request, who: Writer, batch_id: UUID) -> Response:
    """Cancel every unfinished job of the batch. For a large batch this goes on after the answer."""
    state = state_of(request)
    begun = await cancel_batch(state.engine, state.broker, who.tenant, batch_id)
    batch = await find(state, who.tenant, batch_id)
    if not begun:
        raise Conflict("the batch has finished")
    return await _answer(state, BatchReceipt(batch))


def _key_of(request: Request, settings: Settings) -> str | None:
    """The Idempotency-Key of the request. Raises `MalformedRequest`."""
    key = read_key(request.headers.getlist("idempotency-key"))
    if key is None and settings.idempotency_key == "required":
        raise MalformedRequest("send an Idempotency-Key header")
    return key


async def find(state: State, tenant: str, batch_id: UUID) -> Batch:
    """The tenant's batch. Raises `Gone` for an id older than the retention, else `ResourceNotFound`."""
    async with reading(state.engine) as conn:
        batch = await batches.find(conn, batch_id)
    if batch is not None and batch.tenant == tenant:
        return batch
    age = age_of(batch_id, datetime.now(UTC))
    if age is not None and age > state.settings.retention:
        raise Gone("this batch is past its retention")
    raise ResourceNotFound("no such batch")


async def _answer(state: State, receipt: BatchReceipt) -> Response:
    """202 with the batch, and where to watch it."""
    path = link(f"{PATH}/{receipt.batch.id}")
    headers = {"Location": path, "Operation-Location": path, "Link": f'<{path}>; rel="monitor"'}
    if receipt.batch.finished_at is None:
        headers["Retry-After"] = _retry_after(receipt.batch)
    if receipt.replayed:
        headers["Idempotent-Replayed"] = "true"
    if receipt.quota is not None:
        headers |= quota_headers(receipt.quota)
    return Response(json_text.encode(await _shown(state, receipt.batch)), 202, headers, media_type=JSON)


async def _shown(state: State, batch: Batch) -> dict[str, Any]:
    body = to_wire(batch)
    if batch.workflow:
        async with reading(state.engine) as conn:
            body["jobs"] = await members(conn, batch.tenant, batch.id)
    return body


def _retry_after(batch: Batch) -> str:
    """Whole seconds until the next GET."""
    return str(max(1, batch.total // COUNTED_IN_A_SECOND))


async def _read_members(request: Request) -> Any:
    """The body. In a large one the jobs are `Unread`, so that their values are not in memory all at once."""
    settings = state_of(request).settings
    return await read_json(request, settings.max_body_bytes, Apart("jobs", MAX_JOBS, largest_body(settings)))


async def _member(item: Any, slices: TimeSlices) -> Any:
    return await slices.through(item.read()) if isinstance(item, Unread) else item


async def _by_lines(request: Request, tenant: str, options: BatchQuery, key: str | None) -> BatchReceipt:
    state = state_of(request)
    members = Members(state.job_checks, tenant, options, request.headers.get("traceparent"))
    lines_fingerprint = None if key is None else LinesFingerprint("POST", f"{PATH} {options.model_dump_json()}")
    with NdjsonBatch(members, lines_fingerprint, Spool(state.spool_space, tenant)) as lines:
        async with unless_revoked(request, "jobs:write"):
            async for group in read_lines(request, largest_body(state.settings)):
                await lines.take(group, state.slices)
        return await state.limited_submissions.accept_batch(lines.submission(key))


async def _from_json(request: Request, tenant: str, query: BatchQuery, key: str | None) -> BatchSubmission:
    state = state_of(request)
    if named := sorted(query.model_fields_set):
        raise InvalidRequest([FieldError(f"/{name}", "must be in the JSON body, beside jobs") for name in named])
    parsed = await _read_members(request)
    body = checked(BatchRequest, parsed)
    seen = None if key is None else MembersFingerprint("POST", PATH, parsed)
    members = Members(state.job_checks, tenant, body, request.headers.get("traceparent"))
    jobs = []
    async with state.slices as slices:
        for number, item in enumerate(body.jobs):
            one = await _member(item, slices)
            if seen is not None:
                seen.add(one)
            job = await members.check(one, f"/jobs/{number}")
            if job is not None:
                jobs.append(job)
            elif members.too_many_errors:
                break
            await slices.pause()
    batch = members.batch()
    spread = members.spread
    return BatchSubmission(
        batch=batch,
        jobs=[spread.placed(job, number, batch.total) for number, job in enumerate(jobs)],
        queues=members.queues,
        ordering_lines=members.ordering_lines,
        key=key,
        fingerprint=None if seen is None else seen.digest(),
    )


async def _from_workflow(
    state: State, tenant: str, parsed: Any, traceparent: str | None, key: str | None
) -> BatchSubmission:
    """Checks each job, and the graph only if every job is valid."""
    body = checked(WorkflowRequest, parsed)
    seen = None if key is None else MembersFingerprint("POST", "/workflows", parsed)
    members = Members(state.job_checks, tenant, body, traceparent, WorkflowJobRequest, NOT_IN_WORKFLOWS)
    nodes, jobs = [], []
    async with state.slices as slices:
        for number, item in enumerate(parsed["jobs"]):
            one: Any = await _member(item, slices)
            if seen is not None:
                seen.add(one)
            job = await members.check(one, f"/jobs/{number}")
            if job is not None:
                jobs.append(members.spread.placed(job, number, len(body.jobs)))
                nodes.append(Node(one["ref"], tuple(dict.fromkeys(one.get("depends_on", ())))))
            elif members.too_many_errors:
                break
            await slices.pause()
    batch = msgspec.structs.replace(members.batch(), workflow=True)
    whole = workflow(nodes, jobs)
    return BatchSubmission(
        batch=batch, jobs=whole.jobs, edges=whole.edges, queues=members.queues, key=key,
        fingerprint=None if seen is None else seen.digest(),
    )  # fmt: skip
