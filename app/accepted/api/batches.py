"""POST /batches and GET /batches/{id}: many jobs accepted as one, and what they have come to."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON, RATE_LIMIT, header_docs, quota_headers
from accepted.api.http.auth import Reader, Writer, documented
from accepted.api.http.body import body_docs, is_ndjson, read_json, read_lines
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import responses_for
from accepted.api.jobs.submission import largest_body
from accepted.api.schemas import BatchView
from accepted.api.state import State, state_of
from accepted.domain import json_text
from accepted.domain.batch import Batch, to_wire
from accepted.domain.ids import age_of
from accepted.domain.request_headers import LinesFingerprint, fingerprint, read_key
from accepted.errors import Conflict, FieldError, Gone, InvalidRequest, MalformedRequest, ResourceNotFound
from accepted.services.batches.checks import Members
from accepted.services.batches.ending import cancel as cancel_batch
from accepted.services.batches.ndjson import Lines
from accepted.services.batches.requests import BatchQuery, BatchRequest
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
"""Members. Looking at a batch that is not finished counts them all, so a large one asks for fewer looks."""

_WATCHED = ("Location", "Operation-Location", "Link")
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "The batch is committed, with all its jobs.",
        "headers": header_docs(*_WATCHED, "Idempotent-Replayed", "Retry-After", *RATE_LIMIT),
    }
}
_DENIED = (errors.InvalidRequest, errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable)
_MISSING = (errors.ResourceNotFound, errors.Gone)
REFUSED = (
    errors.MalformedRequest, errors.KeyReused, errors.UnsupportedMedia, errors.TooLarge, errors.Gone,
    errors.QuotaExceeded, errors.QueueFull, *_DENIED,
)  # fmt: skip


@router.post(
    PATH,
    status_code=202,
    response_model=BatchView,
    dependencies=[Depends(only_query(*OPTIONS))],
    responses={**ACCEPTED, **responses_for(*REFUSED)},
    openapi_extra=body_docs(
        BatchRequest, by_lines="A job a line, each as POST /jobs takes it. Empty lines are skipped."
    ),
)
async def submit(
    request: Request,
    who: Writer,
    options: Annotated[BatchQuery, Query()],
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Accept many jobs, all or none: up to 10,000 as JSON, or up to 1,000,000 as NDJSON, a job a line.

    With `spread_over` their run times are smeared evenly over the window. With NDJSON the options are in the query.
    """
    state = state_of(request)
    key = key_of(request, state.settings)
    if is_ndjson(request):
        return await answer(state, await _by_lines(request, who.tenant, options, key))
    return await answer(state, await state.admission.accept_batch(await _from_json(request, who.tenant, options, key)))


@router.get(
    "/batches/{batch_id}",
    response_model=BatchView,
    dependencies=[Depends(only_query())],
    responses={
        200: {"description": "The batch.", "headers": header_docs("Retry-After")},
        **responses_for(*_MISSING, *_DENIED),
    },
)
async def get(request: Request, who: Reader, batch_id: UUID) -> Response:
    """The batch, with its jobs counted by status; of a workflow also each of them, after all that it depends on."""
    state = state_of(request)
    batch = await find(state, who.tenant, batch_id)
    headers = {} if batch.finished_at is not None else {"Retry-After": retry_after(batch)}
    return Response(json_text.encode(await _shown(state, batch)), 200, headers, media_type=JSON)


@router.post(
    "/batches/{batch_id}/cancel",
    status_code=202,
    response_model=BatchView,
    dependencies=[Depends(only_query())],
    responses={
        202: {
            "description": "The batch: its waiting jobs are cancelled, or about to be; running ones are told.",
            "headers": header_docs(*_WATCHED, "Retry-After"),
        },
        **responses_for(errors.Conflict, *_MISSING, *_DENIED),
    },
)
async def cancel(request: Request, who: Writer, batch_id: UUID) -> Response:
    """Cancel every job of the batch that has not finished. Of a large batch that goes on after the answer."""
    state = state_of(request)
    begun = await cancel_batch(state.engine, state.broker, who.tenant, batch_id)
    batch = await find(state, who.tenant, batch_id)
    if not begun:
        raise Conflict("the batch has finished")
    return await answer(state, BatchReceipt(batch))


def key_of(request: Request, settings: Settings) -> str | None:
    """The Idempotency-Key that the request came with. Raises `MalformedRequest`."""
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


async def answer(state: State, receipt: BatchReceipt) -> Response:
    """202, with where the batch can be watched."""
    path = f"{PATH}/{receipt.batch.id}"
    headers = {"Location": path, "Operation-Location": path, "Link": f'<{path}>; rel="monitor"'}
    if receipt.batch.finished_at is None:
        headers["Retry-After"] = retry_after(receipt.batch)
    if receipt.replayed:
        headers["Idempotent-Replayed"] = "true"
    if receipt.standing is not None:
        headers |= quota_headers(receipt.standing)
    return Response(json_text.encode(await _shown(state, receipt.batch)), 202, headers, media_type=JSON)


async def _shown(state: State, batch: Batch) -> dict[str, Any]:
    body = to_wire(batch)
    if batch.workflow:
        async with reading(state.engine) as conn:
            body["jobs"] = await members(conn, batch.tenant, batch.id)
    return body


def retry_after(batch: Batch) -> str:
    """Whole seconds until a look may be worth its cost."""
    return str(max(1, batch.total // COUNTED_IN_A_SECOND))


async def _by_lines(request: Request, tenant: str, options: BatchQuery, key: str | None) -> BatchReceipt:
    state = state_of(request)
    members = Members(state.job_checks, tenant, options, request.headers.get("traceparent"))
    seen_as = None if key is None else LinesFingerprint("POST", f"{PATH} {options.model_dump_json()}")
    with Lines(members, seen_as) as lines:
        async for some in read_lines(request, largest_body(state.settings)):
            await lines.take(some, state.slices)
        return await state.admission.accept_batch(lines.submission(key))


async def _from_json(request: Request, tenant: str, query: BatchQuery, key: str | None) -> BatchSubmission:
    state = state_of(request)
    if named := sorted(query.model_fields_set):
        raise InvalidRequest([FieldError(f"/{name}", "belongs into the JSON body, beside jobs") for name in named])
    parsed = await read_json(request, state.settings.max_body_bytes)
    asked = checked(BatchRequest, parsed)
    members = Members(state.job_checks, tenant, asked, request.headers.get("traceparent"))
    jobs = []
    async with state.slices as slices:
        for number, one in enumerate(asked.jobs):
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
        lines=members.lines,
        key=key,
        fingerprint=None if key is None else fingerprint("POST", PATH, parsed),
    )
