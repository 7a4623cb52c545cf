"""GET and PUT /job-types: the types that can be submitted, each with the JSON Schema of its payload."""

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
from accepted.domain.job import INTERNAL_TYPES, JobType
from accepted.errors import Conflict
from accepted.services.job_types import JobTypeRequest, read
from accepted.storage.db.engine import transaction
from accepted.storage.job_types import register_external

MAX_BODY = 128 * 1024
"""Bytes. Every API process keeps the schema in memory and checks every payload of the type with it."""

HANDLED = "a Python worker has registered a handler for this type"

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
    return Response(json_text.encode({"items": [_shown(one) for one in types]}), media_type=JSON)


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

    409 for a type that has a handler in a Python worker.
    """
    state = state_of(request)
    one = read(name, await read_json(request, MAX_BODY))
    if name in INTERNAL_TYPES:
        raise Conflict(HANDLED)
    async with transaction(state.engine) as conn:
        fresh = await register_external(conn, one)
        await conn.commit()
    if fresh is None:
        raise Conflict(HANDLED)
    state.type_cache.forget()
    return Response(json_text.encode(_shown(one)), 201 if fresh else 200, media_type=JSON)


def _shown(one: JobType) -> dict[str, object]:
    return {
        "name": one.name,
        "description": one.description,
        "queue": one.queue,
        "retry": one.retry,
        "timeout": one.timeout,
        "not_found": one.not_found,
        "external": one.external,
        "payload_schema": msgspec.Raw(one.payload_schema.encode()),
    }
