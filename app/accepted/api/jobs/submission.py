"""POST /jobs: from bytes to a checked submission, and from its receipt to a 202.

The hottest path of the service: `accepted.api.http.middleware` calls `accept` with the bare request. The route declares
it for the OpenAPI document.
"""

from typing import Annotated

from fastapi import APIRouter, Body, Header
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import RATE_LIMIT, EncodedResponse, header_docs, quota_headers
from accepted.api.http.auth import authenticate, documented
from accepted.api.http.body import read_json
from accepted.api.http.parameters import refuse_unknown_query
from accepted.api.http.problems import responses_for
from accepted.api.jobs.answers import monitor_headers
from accepted.api.schemas import JobView, SubmittedView
from accepted.api.state import State, state_of
from accepted.domain import json_text
from accepted.domain.job import to_wire
from accepted.domain.request_headers import fingerprint, read_key, read_wait
from accepted.errors import MalformedRequest
from accepted.services.jobs.receipts import Receipt, Submission
from accepted.services.jobs.requests import JobRequest
from accepted.settings import Settings

LONGEST_SPELLING = 6
"""Bytes of a body for one of its payload's: a client may write every character as `\\u0041`."""

ENVELOPE = 64 * 1024
"""Bytes for everything in a body but the payload."""


router = APIRouter(tags=["jobs"])

_MONITORED = (
    "Location", "Operation-Location", "Link", "Idempotent-Replayed", "Preference-Applied", "Vary", *RATE_LIMIT,
)  # fmt: skip


@router.post(
    "/jobs",
    status_code=202,
    response_model=JobView,
    dependencies=documented,
    responses={
        202: {"description": "The job is committed.", "headers": header_docs(*_MONITORED, "Retry-After")},
        200: {"description": "The job ended within `Prefer: wait`; or it was there before, with that `unique` key.",
              "model": SubmittedView, "headers": header_docs(*_MONITORED, "Retry-After")},
        **responses_for(
            errors.MalformedRequest, errors.InvalidRequest, errors.KeyReused, errors.UnsupportedMedia,
            errors.TooLarge, errors.Unauthenticated, errors.Forbidden, errors.Gone, errors.QuotaExceeded,
            errors.QueueFull, errors.LedgerUnavailable,
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
    job = await state.job_checks.check(principal.tenant, parsed, asked.traceparent)
    seen_as = None if key is None else fingerprint("POST", "/jobs", parsed)
    receipt, standing = await state.admission.accept(Submission(job, key, seen_as))
    wait = read_wait(asked.preferences) if asked.preferences else None
    return await _answer(state, receipt, wait, None if standing is None else quota_headers(standing))


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


async def _answer(state: State, receipt: Receipt, wait: int | None, more: dict[str, str] | None) -> Response:
    job = receipt.job
    if wait is not None and not job.finished:
        job = await state.changes.wait(job.id, lambda now: now.finished, wait) or job
    headers = monitor_headers(job)
    if receipt.replayed:
        headers["Idempotent-Replayed"] = "true"
    if wait is not None:
        headers["Preference-Applied"] = f"wait={wait}"
        headers["Vary"] = "Prefer"
    if more is not None:
        headers |= more
    shown = to_wire(job)
    if receipt.duplicate:
        shown["duplicate"] = True
    status = 200 if receipt.duplicate or (wait is not None and job.finished) else 202
    return EncodedResponse(json_text.encode(shown), status, headers)
