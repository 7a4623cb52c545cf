"""POST /jobs: from bytes to a checked submission, and from its receipt to a 202.

The hottest path of the service: `app.api.express` calls `accept` with the bare request. The route declares it for
the OpenAPI document.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Header
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from app import errors
from app.api.auth import authenticate, documented
from app.api.body import read_json
from app.api.job_answers import Answer, header_docs, monitor_headers
from app.api.problems import responses_for
from app.api.query import refuse_unknown_query
from app.api.representations import JobView
from app.api.schemas import YEAR, JobRequest
from app.api.state import State, state_of
from app.api.validation import invalid
from app.domain import json_text
from app.domain.idempotency import fingerprint, read_key
from app.domain.ids import new_id
from app.domain.job import END_EVENTS, NewJob, to_wire
from app.domain.preferences import read_wait
from app.domain.retry import Retry
from app.domain.tracing import is_traceparent
from app.domain.urls import UrlRefused, check_url
from app.errors import FieldError, InvalidRequest, MalformedRequest, TooLarge
from app.services.catalogue import KnownType
from app.services.submission import Receipt, Submission
from app.settings import Settings

LONGEST_SPELLING = 6
"""Bytes of a body for one of its payload's: a client may write every character as `\\u0041`."""

ENVELOPE = 64 * 1024
"""Bytes for everything in a body but the payload."""


router = APIRouter(tags=["jobs"])

_MONITORED = ("Location", "Operation-Location", "Link", "Idempotent-Replayed", "Preference-Applied", "Vary")


@router.post(
    "/jobs",
    status_code=202,
    response_model=JobView,
    dependencies=documented,
    responses={
        202: {"description": "The job is committed.", "headers": header_docs(*_MONITORED, "Retry-After")},
        200: {"description": "The job ended within `Prefer: wait`.", "model": JobView,
              "headers": header_docs(*_MONITORED)},
        **responses_for(
            errors.MalformedRequest, errors.InvalidRequest, errors.KeyReused, errors.UnsupportedMedia,
            errors.TooLarge, errors.Unauthenticated, errors.Forbidden, errors.Gone, errors.LedgerUnavailable,
        ),
    },
)  # fmt: skip
async def submit(
    request: Request,
    body: Annotated[JobRequest, Body()],
    idempotency_key: Annotated[str | None, Header()] = None,
    prefer: Annotated[str | None, Header()] = None,
) -> Response:
    """Accept a job. Once this has answered 202 the job is neither lost nor recorded twice."""
    return await accept(request)


async def accept(request: Request) -> Response:
    """What `submit` declares, done: from the request to the answer. Raises errors of ours only."""
    state = state_of(request)
    principal = await authenticate(request, "jobs:write")
    refuse_unknown_query(request)
    asked = _Headers(request)
    key = read_key(asked.keys)
    if key is None and state.settings.idempotency_key == "required":
        raise MalformedRequest("send an Idempotency-Key header")
    parsed = await read_json(request, largest_body(state.settings))
    job = await _checked(state, principal.tenant, parsed, asked.traceparent)
    seen_as = None if key is None else fingerprint("POST", "/jobs", parsed)
    receipt = await state.submissions.accept(Submission(job, key, seen_as))
    wait = read_wait(asked.preferences) if asked.preferences else None
    return await _answer(state, receipt, wait)


class _Headers:
    """Of a request's headers those that a submission reads, found in one pass."""

    def __init__(self, request: Request) -> None:
        self.keys: list[str] = []
        self.preferences: list[str] = []
        self.traceparent: str | None = None
        for name, value in request.scope["headers"]:
            if name == b"idempotency-key":
                self.keys.append(value.decode("latin-1"))
            elif name == b"prefer":
                self.preferences.append(value.decode("latin-1"))
            elif name == b"traceparent":
                self.traceparent = value.decode("latin-1")


def largest_body(settings: Settings) -> int:
    """Bytes that one job can need at most. Reading more would only hold up everybody else."""
    return min(settings.max_body_bytes, LONGEST_SPELLING * settings.max_payload_bytes + ENVELOPE)


async def _answer(state: State, receipt: Receipt, wait: int | None) -> Response:
    job = receipt.job
    if wait is not None and not job.finished:
        job = await state.changes.wait(job.id, lambda now: now.finished, wait) or job
    headers = monitor_headers(job)
    if receipt.replayed:
        headers["Idempotent-Replayed"] = "true"
    if wait is not None:
        headers["Preference-Applied"] = f"wait={wait}"
        headers["Vary"] = "Prefer"
    status = 200 if wait is not None and job.finished else 202
    return Answer(json_text.encode(to_wire(job)), status, headers)


async def _checked(state: State, tenant: str, parsed: Any, traceparent: str | None) -> NewJob:
    """The job that the body asks for. Raises `InvalidRequest` or `TooLarge`."""
    if not isinstance(parsed, dict):
        raise InvalidRequest([FieldError("", "must be an object")])
    try:
        asked = JobRequest.model_validate(parsed)
    except ValidationError as error:
        raise invalid(error, JobRequest) from None
    known = await state.catalogue.get(asked.type)
    payload = json_text.encode(asked.payload)
    if len(payload) > state.settings.max_payload_bytes:
        raise TooLarge(f"the payload is larger than {state.settings.max_payload_bytes} bytes")
    known.check(asked.payload)
    _check_times(asked)
    _check_callback(asked, state)
    return _new_job(tenant, asked, known, payload.decode(), traceparent)


def _check_times(asked: JobRequest) -> None:
    """A past `expires_at` is accepted, and expires: a replay of its key must find the first job, however late."""
    if asked.run_at is None:
        return
    if asked.delay is not None:
        raise InvalidRequest([FieldError("/delay", "give run_at or delay, not both")])
    if asked.run_at > datetime.now(UTC) + timedelta(seconds=YEAR):
        raise InvalidRequest([FieldError("/run_at", "must be at most 366 days ahead")])


def _check_callback(asked: JobRequest, state: State) -> None:
    if asked.callback_url is None:
        if asked.callback_events is not None:
            raise InvalidRequest([FieldError("/callback_events", "needs a callback_url")])
        return
    try:
        check_url(asked.callback_url, state.settings.egress_allow)
    except UrlRefused as refused:
        raise InvalidRequest([FieldError("/callback_url", str(refused))]) from None


def _new_job(tenant: str, asked: JobRequest, known: KnownType, payload: str, traceparent: str | None) -> NewJob:
    policy = _policy(asked, known.type.retry)
    return NewJob(
        id=new_id(),
        tenant=tenant,
        type=asked.type,
        queue=asked.queue or known.type.queue,
        payload=payload,
        priority=asked.priority,
        max_attempts=(policy or known.type.retry).max_attempts,
        retry=None if policy is None else msgspec.json.encode(policy).decode(),
        timeout=asked.timeout,
        run_at=asked.run_at,
        delay=None if asked.delay is None else float(asked.delay),
        expires_at=asked.expires_at,
        callback_url=asked.callback_url,
        callback_events=END_EVENTS if asked.callback_events is None else tuple(asked.callback_events),
        tags=tuple(asked.tags),
        metadata=json_text.encode(asked.metadata).decode() if asked.metadata else "{}",
        traceparent=traceparent if traceparent and is_traceparent(traceparent) else None,
    )


def _policy(asked: JobRequest, default: Retry) -> Retry | None:
    if asked.retry is None:
        return None
    given = asked.retry
    return Retry(
        max_attempts=default.max_attempts if given.max_attempts is None else given.max_attempts,
        schedule=default.schedule if given.schedule is None else tuple(map(float, given.schedule)),
        jitter=default.jitter if given.jitter is None else float(given.jitter),
    )
