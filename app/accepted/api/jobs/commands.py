"""A client's orders about one job: POST /jobs/{id}/cancel and /retry, DELETE /jobs/{id}, and replaying its letter."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import matches
from accepted.api.http.auth import Writer, documented
from accepted.api.http.body import NoNulls, body_docs, read_optional_json
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import BODY_REFUSALS, REFUSALS, responses_for
from accepted.api.jobs.answers import MONITORED, JobView, answer_accepted, body_and_etag
from accepted.api.jobs.reading import find
from accepted.api.jobs.submission import largest_body
from accepted.api.state import State, state_of
from accepted.domain import json_text
from accepted.domain.job import INTERNAL_TYPES, RETRYABLE, Job
from accepted.errors import Conflict, FieldError, InvalidRequest, NeedFailed, PreconditionFailed, TooLarge
from accepted.services import manual_retry
from accepted.services.jobs import deletion
from accepted.services.jobs.completion import cancel as cancel_job
from accepted.services.jobs.validation import checked
from accepted.services.keys import Principal
from accepted.services.manual_retry import EditedPayload

router = APIRouter(dependencies=[*documented, Depends(only_query())])

ANONYMOUS = "anybody"
"""The editor that is recorded where no API key is needed."""

_WAITS_AGAIN: dict[int | str, dict[str, Any]] = {
    202: {"description": "The job waits to run again.", "headers": MONITORED}
}
_MISSING = (errors.ResourceNotFound, errors.Gone, errors.Conflict)


class ReplayOneRequest(NoNulls):
    """How to replay one dead letter."""

    payload: dict[str, Any] | None = Field(None, description="replaces the payload that failed")


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=202,
    tags=["jobs"],
    response_model=JobView,
    responses={
        202: {"description": "The job: cancelled, or running and to be cancelled.", "headers": MONITORED},
        **responses_for(*_MISSING, *REFUSALS),
    },
)
async def cancel(request: Request, who: Writer, job_id: UUID) -> Response:
    """Cancel a job that has not finished. A running one may still succeed before its worker learns of the cancel."""
    state = state_of(request)
    return answer_accepted(await cancel_job(state.engine, state.broker, await find(state, who.tenant, job_id)))


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    tags=["jobs"],
    response_model=JobView,
    responses={**_WAITS_AGAIN, **responses_for(*_MISSING, *REFUSALS, errors.PreconditionFailed)},
)
async def retry(
    request: Request,
    who: Writer,
    job_id: UUID,
    if_match: Annotated[str | None, Header(description="Only if the job still has this ETag.")] = None,
) -> Response:
    """Run a failed, cancelled or expired job again, now, with a fresh retry budget. Its attempt number goes on.

    With If-Match it does so once, however often the request arrives.
    """
    state = state_of(request)
    job = await find(state, who.tenant, job_id)
    if job.status not in RETRYABLE:
        raise Conflict(f"the job is {job.status}: only a failed, cancelled or expired job can be retried")
    # compared weakly: a proxy that compresses answers makes their ETags weak
    if if_match is not None and not matches(if_match, body_and_etag(job)[1]):
        raise PreconditionFailed("the job has changed since it had this ETag")
    with _failed_needs():
        again = await manual_retry.retry(state.engine, job)
    if again is None:
        raise Conflict("the job has changed meanwhile")
    return answer_accepted(again)


@router.delete(
    "/jobs/{job_id}",
    status_code=204,
    tags=["jobs"],
    responses={204: {"description": "The job is deleted."}, **responses_for(*_MISSING, *REFUSALS)},
)
async def delete(request: Request, who: Writer, job_id: UUID) -> Response:
    """Delete what the job holds: payload, result, errors, steps, metadata. A waiting job is cancelled, too.

    From then on reads answer 410. A running job is 409: cancel it first.
    """
    state = state_of(request)
    await deletion.delete(state.engine, state.broker, await find(state, who.tenant, job_id))
    return Response(status_code=204)


@router.post(
    "/dead-letters/{job_id}/replay",
    status_code=202,
    tags=["dead letters"],
    response_model=JobView,
    responses={**_WAITS_AGAIN, **responses_for(*_MISSING, *BODY_REFUSALS)},
    openapi_extra=body_docs(ReplayOneRequest, required=False),
)
async def replay(request: Request, who: Writer, job_id: UUID) -> Response:
    """Run the job of one dead letter again, with its payload or another one. A replaced payload is kept as an edit."""
    state = state_of(request)
    wanted = checked(ReplayOneRequest, await read_optional_json(request, largest_body(state.settings)))
    job = await find(state, who.tenant, job_id)
    edited = await _edited(state, who, job, wanted.payload) if "payload" in wanted.model_fields_set else None
    with _failed_needs():
        again = await manual_retry.replay(state.engine, job, edited)
    if again is None:
        raise Conflict("the job is not a dead letter: it has not failed, or was replayed or discarded")
    return answer_accepted(again)


@contextmanager
def _failed_needs() -> Iterator[None]:
    """Says in words which needed job has failed."""
    try:
        yield
    except NeedFailed as failed:
        named = " ".join(filter(None, ["the job needs job", failed.ref, str(failed.needs)]))
        became = f"is {failed.status}: retry that one, and this one waits for it again"
        raise Conflict(f"{named}, which {became if failed.status else 'no longer exists'}") from None


async def _edited(state: State, who: Principal, job: Job, payload: object) -> EditedPayload:
    """The payload, checked as POST /jobs checks it for the type. Raises `InvalidRequest` or `TooLarge`."""
    if job.type in INTERNAL_TYPES:
        raise InvalidRequest([FieldError("/payload", "a webhook or an alert is sent as it was recorded")])
    known = await state.type_cache.get(job.tenant, job.type)
    encoded = json_text.encode(payload)
    if len(encoded) > state.settings.max_payload_bytes:
        raise TooLarge(f"the payload is larger than {state.settings.max_payload_bytes} bytes")
    known.check(payload, encoded)
    return EditedPayload(encoded.decode(), who.name or ANONYMOUS)
