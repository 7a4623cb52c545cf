"""GET and PUT /job-types: the types that can be submitted, each with the JSON Schema of its payload."""

import re
from typing import Any

import msgspec
from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.auth import Reader, Registrar, documented
from accepted.api.http.body import body_docs, read_json
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import BODY_REFUSALS, REFUSALS, responses_for
from accepted.api.state import state_of
from accepted.domain import json_text
from accepted.domain.failures import OnNotFound
from accepted.domain.job import INTERNAL_TYPES, TYPE_PATTERN, JobType
from accepted.errors import Conflict, ResourceNotFound
from accepted.services.job_types import JobTypeRequest, read
from accepted.storage import job_types as ledger
from accepted.storage.db.engine import transaction

MAX_BODY = 128 * 1024
"""Bytes. Every API process keeps the schema in memory and checks every payload of the type with it."""

HANDLED = "a Python worker has a handler for this type"

SERVED = "a worker serves this type, or did a moment ago"

IN_USE = "jobs of this type wait or run"

_DELETE_REFUSALS = (errors.ResourceNotFound, errors.Conflict, *REFUSALS)

router = APIRouter(tags=["job types"], dependencies=[*documented, Depends(only_query())])


class RetryView(BaseModel):
    max_attempts: int
    schedule: list[float]
    jitter: float


class JobTypeView(BaseModel):
    """A type that a worker has registered."""

    name: str
    description: str
    queue: str
    retry: RetryView
    timeout: float | None
    not_found: OnNotFound
    external: bool = Field(description="Registered by PUT: run by workers that lease its jobs over HTTP.")
    payload_schema: dict[str, Any]
    problem: str | None = Field(
        default=None, description="Why no job of the type can be accepted. Not there for a type that can be used."
    )


class JobTypeList(BaseModel):
    items: list[JobTypeView]


@router.get(
    "/job-types",
    response_model=JobTypeList,
    responses=responses_for(*REFUSALS),
)
async def list_(request: Request, who: Reader) -> Response:
    """Every type that a worker has registered."""
    types = await state_of(request).type_cache.all()
    return Response(json_text.encode({"items": [_shown(one.type, one.flaw) for one in types]}), media_type=JSON)


@router.put(
    "/job-types/{name}",
    response_model=JobTypeView,
    responses={
        200: {"description": "The type existed, and is replaced."},
        201: {"description": "The type is new.", "model": JobTypeView},
        **responses_for(*BODY_REFUSALS, errors.Conflict),
    },
    openapi_extra=body_docs(JobTypeRequest),
)
async def put(request: Request, who: Registrar, name: str) -> Response:
    """Register a type whose jobs are leased over HTTP. A worker may repeat this each time it starts.

    409 for a type for which a Python worker that is alive has a handler.
    """
    state = state_of(request)
    one = read(name, await read_json(request, MAX_BODY))
    if name in INTERNAL_TYPES:
        raise Conflict(HANDLED)
    async with transaction(state.engine) as conn:
        fresh = await ledger.register_external(conn, one, state.settings.lease_ttl)
        await conn.commit()
    if fresh is None:
        raise Conflict(HANDLED)
    state.type_cache.forget()
    return Response(json_text.encode(_shown(one)), 201 if fresh else 200, media_type=JSON)


@router.delete("/job-types/{name}", status_code=204, responses=responses_for(*_DELETE_REFUSALS))
async def delete(request: Request, who: Registrar, name: str) -> Response:
    """Delete a type that nobody needs any more. 409 while a worker serves it, or jobs of any tenant wait or run.

    A worker that has a handler for it registers it again as it starts.
    """
    state = state_of(request)
    if not re.fullmatch(TYPE_PATTERN, name):
        raise ResourceNotFound("no such type")
    if name in INTERNAL_TYPES:
        raise Conflict(HANDLED)
    async with transaction(state.engine) as conn:
        use = await ledger.delete(conn, name, state.settings.lease_ttl)
        await conn.commit()
    if use is None:
        raise ResourceNotFound("no such type")
    if use.served or use.in_use:
        raise Conflict(SERVED if use.served else IN_USE)
    state.type_cache.forget()
    return Response(status_code=204)


def _shown(one: JobType, flaw: str | None = None) -> dict[str, object]:
    is_object = one.payload_schema.lstrip().startswith("{")
    return {
        "name": one.name,
        "description": one.description,
        "queue": one.queue,
        "retry": one.retry,
        "timeout": one.timeout,
        "not_found": one.not_found,
        "external": one.external,
        "payload_schema": msgspec.Raw(one.payload_schema.encode()) if is_object else {},
        **({} if flaw is None else {"problem": flaw}),
    }
