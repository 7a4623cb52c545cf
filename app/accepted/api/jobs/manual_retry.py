"""POST /jobs/{id}/retry and POST /dead-letters/{id}/replay: one finished job runs again."""

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.dead_letter_schemas import EditRequest
from accepted.api.http.answers import JSON, header_docs
from accepted.api.http.auth import Writer, documented
from accepted.api.http.body import body_docs, read_optional_json
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import responses_for
from accepted.api.jobs.answers import monitor_headers
from accepted.api.jobs.reading import find
from accepted.api.jobs.submission import largest_body
from accepted.api.schemas import JobView
from accepted.api.state import State, state_of
from accepted.domain import json_text
from accepted.domain.job import INTERNAL_TYPES, RETRYABLE, Job, to_wire
from accepted.errors import Conflict, FieldError, InvalidRequest, TooLarge
from accepted.services import manual_retry
from accepted.services.jobs.validation import checked
from accepted.services.keys import Principal
from accepted.services.manual_retry import EditedPayload

router = APIRouter(dependencies=[*documented, Depends(only_query())])

ANYBODY = "anybody"
"""Who edited a payload where no API key is needed."""

_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "The job waits to run again.",
        "headers": header_docs("Location", "Operation-Location", "Link", "Retry-After"),
    }
}
_REFUSED = (
    errors.ResourceNotFound, errors.Gone, errors.Conflict, errors.InvalidRequest, errors.Unauthenticated,
    errors.Forbidden, errors.LedgerUnavailable,
)  # fmt: skip


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    tags=["jobs"],
    response_model=JobView,
    responses={**_ACCEPTED, **responses_for(*_REFUSED)},
)
async def retry(request: Request, who: Writer, job_id: UUID) -> Response:
    """Run a failed, cancelled or expired job again, now, with a fresh retry budget. Its attempts are counted on."""
    state = state_of(request)
    job = await find(state, who.tenant, job_id)
    if job.status not in RETRYABLE:
        raise Conflict(f"the job is {job.status}: only a failed, cancelled or expired one is retried")
    again = await manual_retry.retry(state.engine, job)
    if again is None:
        raise Conflict("the job has changed meanwhile")
    return _answer(again)


@router.post(
    "/dead-letters/{job_id}/replay",
    status_code=202,
    tags=["dead letters"],
    response_model=JobView,
    responses={
        **_ACCEPTED,
        **responses_for(*_REFUSED, errors.MalformedRequest, errors.UnsupportedMedia, errors.TooLarge),
    },
    openapi_extra=body_docs(EditRequest, required=False),
)
async def replay(request: Request, who: Writer, job_id: UUID) -> Response:
    """Run the job of one dead letter again, with its payload or with another one; the former is kept."""
    state = state_of(request)
    asked = checked(EditRequest, await read_optional_json(request, largest_body(state.settings)))
    job = await find(state, who.tenant, job_id)
    edited = None if "payload" not in asked.model_fields_set else await _edited(state, who, job, asked.payload)
    again = await manual_retry.replay(state.engine, job, edited)
    if again is None:
        raise Conflict("the job is no dead letter: it has not failed, or that was decided about")
    return _answer(again)


async def _edited(state: State, who: Principal, job: Job, payload: object) -> EditedPayload:
    """The payload as POST /jobs would accept it for that type. Raises `InvalidRequest` or `TooLarge`."""
    if job.type in INTERNAL_TYPES:
        raise InvalidRequest([FieldError("/payload", "what tells of another job is sent as it was recorded")])
    known = await state.type_cache.get(job.type)
    encoded = json_text.encode(payload)
    if len(encoded) > state.settings.max_payload_bytes:
        raise TooLarge(f"the payload is larger than {state.settings.max_payload_bytes} bytes")
    known.check(payload)
    return EditedPayload(encoded.decode(), who.name or ANYBODY)


def _answer(job: Job) -> Response:
    return Response(json_text.encode(to_wire(job)), 202, monitor_headers(job), media_type=JSON)
