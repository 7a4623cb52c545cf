"""Leases, for workers in any language: POST /queues/{name}/lease, and the reports on a lease."""

import asyncio
import re
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.auth import Worker, documented, unless_revoked
from accepted.api.http.body import body_docs, read_json, read_optional_json
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import BODY_REFUSALS, responses_for
from accepted.api.jobs.answers import JobView
from accepted.api.jobs.submission import ENVELOPE, LONGEST_SPELLING
from accepted.api.state import State, state_of
from accepted.domain import json_text
from accepted.domain.failures import FailureClass
from accepted.domain.job import QUEUE_PATTERN, progress_json, to_wire
from accepted.domain.references import Lease, read_token
from accepted.errors import FieldError, InvalidRequest, Refused, ResourceNotFound, TooLarge
from accepted.services.jobs.claiming import LeasedJob
from accepted.services.jobs.validation import checked
from accepted.services.lease_waiters import LeaseRequestKey
from accepted.services.leases import CompleteRequest, FailRequest, HeartbeatRequest, LeaseRequest, ProgressRequest
from accepted.storage.leases import LeaseHeartbeat

router = APIRouter(tags=["leases"], dependencies=[*documented, Depends(only_query())])

MAX_BODY = 1024 * 1024
"""Bytes of a body, except one with a result."""

_REFUSED = responses_for(errors.ResourceNotFound, *BODY_REFUSALS, errors.Conflict)


class LeasedJobView(BaseModel):
    """A job to run, and the lease under which the caller runs it."""

    lease: str
    job: JobView
    expires_at: datetime


class LeaseList(BaseModel):
    items: list[LeasedJobView]


class LeaseView(BaseModel):
    """A valid lease, and whether its job is to be cancelled."""

    lease: str
    expires_at: datetime
    cancelled: bool


@router.post(
    "/queues/{name}/lease",
    response_model=LeaseList,
    responses=responses_for(errors.ResourceNotFound, *BODY_REFUSALS),
    openapi_extra=body_docs(LeaseRequest, required=False),
)
async def lease(request: Request, who: Worker, name: str) -> Response:
    """Up to `max` jobs of the tenant, each under a lease; an empty list if no job is ready within `wait` seconds.

    A lease is valid until `expires_at`. Each heartbeat extends it, up to the end of the job's `timeout`.
    """
    if not re.fullmatch(QUEUE_PATTERN, name):
        raise ResourceNotFound("not a valid queue name")
    state = state_of(request)
    wanted = checked(LeaseRequest, await read_optional_json(request, MAX_BODY))
    types = None if wanted.types is None else tuple(sorted(set(wanted.types)))
    await _check_types(state, who.tenant, wanted.types)
    key = LeaseRequestKey(who.tenant, f"lease:{who.name}", name, types)
    given: list[LeasedJob] = []
    try:
        async with unless_revoked(request, "jobs:work"):
            given = await _wait(request, state, key, wanted)
    except Refused:
        state.lease_waiters.hand_back(given)
        raise
    items = [_shown(state, one.leased.lease, one.leased.started_at, one.leased.ends_at, one) for one in given]
    return Response(json_text.encode({"items": items}), headers={"Cache-Control": "no-store"}, media_type=JSON)


@router.post(
    "/leases/{lease}/complete",
    response_model=JobView,
    responses=_REFUSED,
    openapi_extra=body_docs(CompleteRequest),
)
async def complete(request: Request, who: Worker, lease: str) -> Response:
    """The job has succeeded, with `result`. 413 for a result over `MAX_RESULT_BYTES`; the lease is then still valid."""
    state, found = state_of(request), _lease(lease)
    limit = state.settings.max_result_bytes
    body = checked(CompleteRequest, await read_json(request, LONGEST_SPELLING * limit + ENVELOPE))
    result = json_text.encode(body.result)
    if len(result) > limit:
        raise TooLarge(f"the result is larger than {limit} bytes")
    await state.leases.complete(who.tenant, found, result.decode())
    return await _job(state, found.job_id)


@router.post("/leases/{lease}/fail", response_model=JobView, responses=_REFUSED, openapi_extra=body_docs(FailRequest))
async def fail(request: Request, who: Worker, lease: str) -> Response:
    """The attempt has failed. The class decides what happens to the job, as for a Python handler."""
    state, found = state_of(request), _lease(lease)
    body = checked(FailRequest, await read_json(request, MAX_BODY))
    kind = FailureClass(body.class_)
    await state.leases.fail(who.tenant, found, kind, body.message, body.retry_after)
    return await _job(state, found.job_id)


@router.post(
    "/leases/{lease}/heartbeat",
    response_model=LeaseView,
    responses=_REFUSED,
    openapi_extra=body_docs(HeartbeatRequest, required=False),
)
async def heartbeat(request: Request, who: Worker, lease: str) -> Response:
    """The worker is alive. If `cancelled` is true, stop the job and report `fail` within 2 s."""
    state, found = state_of(request), _lease(lease)
    checked(HeartbeatRequest, await read_optional_json(request, MAX_BODY))
    return _answer(state, found, await state.leases.heartbeat(who.tenant, found))


@router.post(
    "/leases/{lease}/progress",
    response_model=LeaseView,
    responses=_REFUSED,
    openapi_extra=body_docs(ProgressRequest),
)
async def progress(request: Request, who: Worker, lease: str) -> Response:
    """How far the attempt is. Also counts as a heartbeat."""
    state, found = state_of(request), _lease(lease)
    body = checked(ProgressRequest, await read_json(request, MAX_BODY))
    report = progress_json(body.percent, body.message)
    return _answer(state, found, await state.leases.heartbeat(who.tenant, found, report))


async def _wait(request: Request, state: State, key: LeaseRequestKey, wanted: LeaseRequest) -> list[LeasedJob]:
    """The leased jobs. If the client disconnects or the wait is cancelled, they are handed back, or never leased."""
    answer = state.lease_waiters.wait(key, wanted.max, float(wanted.wait))
    gone = asyncio.ensure_future(_disconnected(request))
    waiting: set[asyncio.Future[Any]] = {answer, gone}
    answered = False
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answered = not gone.done()
        return answer.result() if answered else []
    finally:
        gone.cancel()
        if not answered:
            state.lease_waiters.give_up(answer)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _check_types(state: State, tenant: str, names: list[str] | None) -> None:
    """Raise `InvalidRequest` for an unregistered type: the worker would wait for it in vain."""
    unknown = [
        FieldError(f"/types/{index}", "no worker has registered this type")
        for index, name in enumerate(names or ())
        if not await state.type_cache.knows(tenant, name)
    ]
    if unknown:
        raise InvalidRequest(unknown)


def _lease(token: str) -> Lease:
    lease = read_token(token)
    if lease is None:
        raise ResourceNotFound("no such lease")
    return lease


def _answer(state: State, lease: Lease, beat: LeaseHeartbeat) -> Response:
    body = _shown(state, lease, beat.at, beat.ends_at) | {"cancelled": beat.cancelled}
    return Response(json_text.encode(body), media_type=JSON)


def _shown(
    state: State, lease: Lease, at: datetime, ends_at: datetime, given: LeasedJob | None = None
) -> dict[str, Any]:
    expires_at = min(at + timedelta(seconds=state.settings.lease_ttl), ends_at)
    job = {} if given is None else {"job": to_wire(given.job)}
    return {"lease": lease.token, **job, "expires_at": expires_at}


async def _job(state: State, job_id: UUID) -> Response:
    job = await state.watcher.job(job_id)
    if job is None:
        raise ResourceNotFound("the job has been pruned meanwhile")
    return Response(json_text.encode(to_wire(job)), media_type=JSON)
