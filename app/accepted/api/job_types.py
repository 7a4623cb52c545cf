"""GET, PUT and DELETE /job-types: the types that can be submitted, each with the JSON Schema of its payload.

A type that is put belongs to the caller's tenant. `shared=true` puts and deletes those of all tenants, and needs the
scope `operator`. With authentication off every type is shared.
"""

import re
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.auth import REGISTRAR_SCOPES, Reader, Registrar, documented
from accepted.api.http.body import body_docs, read_json
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import BODY_REFUSALS, REFUSALS, responses_for
from accepted.api.state import State, state_of
from accepted.domain import json_text
from accepted.domain.failures import OnNotFound
from accepted.domain.job import TYPE_PATTERN, JobType
from accepted.domain.tenants import OPERATOR_SCOPE, SHARED
from accepted.errors import Forbidden, ResourceNotFound
from accepted.services.job_types import registration
from accepted.services.job_types.registration import JobTypeRequest
from accepted.services.keys import Principal

MAX_BODY = 128 * 1024
"""Bytes. Its schema takes up to 24 times as much memory in each process that checks payloads with it."""

_DELETE_REFUSALS = (errors.ResourceNotFound, errors.Conflict, *REFUSALS)

router = APIRouter(tags=["job types"], dependencies=documented)

Shared = Annotated[bool, Query(description="The type of all tenants; needs the scope `operator`.")]


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
    shared: bool = Field(description="Of all tenants. A tenant's own type of the name goes before it.")
    payload_schema: dict[str, Any]
    problem: str | None = Field(
        default=None, description="Why no job of the type can be accepted. Not there for a type that can be used."
    )


class JobTypeList(BaseModel):
    items: list[JobTypeView]


@router.get(
    "/job-types",
    response_model=JobTypeList,
    dependencies=[Depends(only_query())],
    responses=responses_for(*REFUSALS),
)
async def list_(request: Request, who: Reader) -> Response:
    """The types that jobs of the tenant can have: its own, and those that all tenants share."""
    types = await state_of(request).type_cache.all(who.tenant)
    return Response(json_text.encode({"items": [_shown(one, flaw) for one, flaw in types]}), media_type=JSON)


@router.put(
    "/job-types/{name}",
    response_model=JobTypeView,
    responses={
        200: {"description": "The type existed, and is replaced."},
        201: {"description": "The type is new.", "model": JobTypeView},
        **responses_for(*BODY_REFUSALS, errors.Conflict),
    },
    dependencies=[Depends(only_query("shared"))],
    openapi_extra=body_docs(JobTypeRequest),
)
async def put(request: Request, who: Registrar, name: str, shared: Shared = False) -> Response:
    """Register a type whose jobs are leased over HTTP. A worker may repeat this each time it starts.

    409 for a type for which a Python worker that is alive has a handler, and for more types than a tenant may have.
    """
    state = state_of(request)
    owner = _owner(state, who, shared)
    one = await state.type_cache.turns.run(owner, registration.read, owner, name, await read_json(request, MAX_BODY))
    fresh = await registration.put(state.engine, one, state.settings.lease_ttl)
    state.type_cache.forget()
    return Response(json_text.encode(_shown(one)), 201 if fresh else 200, media_type=JSON)


@router.delete(
    "/job-types/{name}",
    status_code=204,
    dependencies=[Depends(only_query("shared"))],
    responses=responses_for(*_DELETE_REFUSALS),
)
async def delete(request: Request, who: Registrar, name: str, shared: Shared = False) -> Response:
    """Delete a type that nobody needs any more.

    409 while a worker serves it, jobs of it wait or run, or schedules submit such jobs. A worker that has a handler for
    it registers it again as it starts.
    """
    state = state_of(request)
    owner = _owner(state, who, shared)
    if not re.fullmatch(TYPE_PATTERN, name):
        raise ResourceNotFound("no such type")
    await registration.delete(state.engine, owner, name, state.settings.lease_ttl)
    state.type_cache.forget()
    return Response(status_code=204)


def _owner(state: State, who: Principal, shared: bool) -> str:
    """Whose types the request is about. Raises `Forbidden`."""
    if state.settings.auth == "off":
        return SHARED
    if shared and OPERATOR_SCOPE not in who.scopes:
        raise Forbidden(f"types of all tenants need the scope {OPERATOR_SCOPE}")
    if not shared and who.scopes.isdisjoint(REGISTRAR_SCOPES):
        raise Forbidden(f"types of the tenant need the scope {' or '.join(REGISTRAR_SCOPES)}")
    return SHARED if shared else who.tenant


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
        "shared": one.tenant == SHARED,
        "payload_schema": msgspec.Raw(one.payload_schema.encode()) if is_object else {},
        **({} if flaw is None else {"problem": flaw}),
    }
