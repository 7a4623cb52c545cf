"""POST /jobs: from bytes to a checked submission, and from its receipt to a 202.

The hottest path of the service: `accepted.api.http.middleware` calls `accept` with the bare request. The route exists
so that the OpenAPI document describes it.
"""

import contextlib
from typing import Annotated

from fastapi import APIRouter, Body, Header
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import RATE_LIMIT, EncodedResponse, header_docs, quota_headers
from accepted.api.http.auth import authenticate, documented, said, unless_revoked
from accepted.api.http.body import read_json
from accepted.api.http.parameters import refuse_unknown_query
from accepted.api.http.problems import BODY_REFUSALS, responses_for
from accepted.api.jobs.answers import MONITORED, JobView, SubmittedView, monitor_headers
from accepted.api.state import state_of
from accepted.domain import json_text
from accepted.domain.job import Job, to_wire
from accepted.domain.request_headers import fingerprint, read_key, read_wait
from accepted.errors import LedgerUnavailable, MalformedRequest, Unauthenticated
from accepted.services.jobs.requests import JobRequest
from accepted.services.jobs.submission import Receipt, Submission
from accepted.settings import Settings
from accepted.tracing import jobs as tracing

LONGEST_SPELLING = 6
"""Bytes in the body for one byte of the payload: a client may escape every character, as in `\\u0041`."""

ENVELOPE = 64 * 1024
"""Bytes for everything in a body but the payload."""


router = APIRouter(tags=["jobs"])

_HEADERS = MONITORED | header_docs("Idempotent-Replayed", "Preference-Applied", "Vary", *RATE_LIMIT)


@router.post(
    "/jobs",
    status_code=202,
    response_model=JobView,
    dependencies=[*documented, said("jobs:write")],
    responses={
        202: {"description": "The job is committed.", "headers": _HEADERS},
        200: {"description": "The job ended within `Prefer: wait`, or a job with its `unique` key existed.",
              "model": SubmittedView, "headers": _HEADERS},
        **responses_for(*BODY_REFUSALS, errors.KeyReused, errors.Gone, errors.QuotaExceeded, errors.QueueFull),
    },
)  # fmt: skip
async def submit(
    request: Request,
    body: Annotated[JobRequest, Body()],
    idempotency_key: Annotated[str | None, Header()] = None,
    prefer: Annotated[str | None, Header()] = None,
) -> Response:
    """Accept a job. Once this has answered 202, the job is neither lost nor recorded twice."""
    return await accept(request)


async def accept(request: Request) -> Response:
    """The work of `submit`, from the request to the answer. Raises only `AcceptedError`s."""
    state = state_of(request)
    principal = await authenticate(request, "jobs:write")
    refuse_unknown_query(request)
    headers = _SubmissionHeaders(request)
    key = read_key(headers.keys)
    if key is None and state.settings.idempotency_key == "required":
        raise MalformedRequest("send an Idempotency-Key header")
    parsed = await read_json(request, largest_body(state.settings))
    job = await state.job_checks.check(principal.tenant, parsed, headers.traceparent)
    body_fingerprint = None if key is None else fingerprint("POST", "/jobs", parsed)
    span, job = tracing.sending(job)
    with span:
        receipt, quota = await state.limited_submissions.accept(Submission(job, key, body_fingerprint))
    wait = read_wait(headers.preferences) if headers.preferences else None
    return await _answer(request, receipt, wait, None if quota is None else quota_headers(quota))


class _SubmissionHeaders:
    """The headers that a submission reads, found in one pass."""

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
    """The most bytes that a body with one job can need."""
    return min(settings.max_body_bytes, LONGEST_SPELLING * settings.max_payload_bytes + ENVELOPE)


async def _ended(request: Request, job: Job, seconds: int) -> Job:
    """The job once it has ended, or as it is after `seconds`; as it was accepted, if nobody may or can say more.

    No problem is answered here, not even to a key that is revoked meanwhile: the job is accepted, and stays so.
    """
    with contextlib.suppress(LedgerUnavailable, Unauthenticated):
        async with unless_revoked(request, "jobs:write"):
            found = await state_of(request).watcher.wait(job.id, lambda now: now.finished, seconds)
        return found or job
    return job


async def _answer(request: Request, receipt: Receipt, wait: int | None, more: dict[str, str] | None) -> Response:
    job = receipt.job
    request.scope.setdefault("state", {})["job_id"] = job.id
    if wait is not None and not job.finished:
        job = await _ended(request, job, wait)
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
