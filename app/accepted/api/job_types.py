"""GET and PUT /job-types: what can be submitted, with the JSON Schema that a payload is checked against."""

import msgspec
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.auth import Reader, Registrar, documented
from accepted.api.http.body import body_docs, read_json
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import responses_for
from accepted.api.schemas import JobTypeList, JobTypeView
from accepted.api.state import state_of
from accepted.domain import json_text
from accepted.domain.job import INTERNAL_TYPES, JobType
from accepted.errors import Conflict
from accepted.services.job_types import JobTypeRequest, read
from accepted.storage.db.engine import transaction
from accepted.storage.job_types import register_external

MAX_BODY = 128 * 1024
"""Bytes. A schema is checked against at every submission, and held by every API process."""

router = APIRouter(tags=["job types"], dependencies=[*documented, Depends(only_query())])


@router.get(
    "/job-types",
    response_model=JobTypeList,
    responses=responses_for(errors.InvalidRequest, errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable),
)
async def list_(request: Request, who: Reader) -> Response:
    """Every type that a worker has registered."""
    types = await state_of(request).type_cache.all()
    return Response(json_text.encode({"items": [_shown(one) for one in types]}), media_type=JSON)


@router.put(
    "/job-types/{name}",
    response_model=JobTypeView,
    responses={
        200: {"description": "The type was there, and is now like this."},
        201: {"description": "The type is new.", "model": JobTypeView},
        **responses_for(
            errors.MalformedRequest, errors.InvalidRequest, errors.UnsupportedMedia, errors.TooLarge, errors.Conflict,
            errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable,
        ),
    },
    openapi_extra=body_docs(JobTypeRequest),
)  # fmt: skip
async def put(request: Request, who: Registrar, name: str) -> Response:
    """Register a type whose jobs are leased over HTTP. A worker may do so each time it starts.

    409 for a type that has a handler in a Python worker.
    """
    state = state_of(request)
    one = read(name, await read_json(request, MAX_BODY))
    if name in INTERNAL_TYPES:
        raise Conflict(_HANDLED)
    async with transaction(state.engine) as conn:
        fresh = await register_external(conn, one)
        await conn.commit()
    if fresh is None:
        raise Conflict(_HANDLED)
    state.type_cache.forget()
    return Response(json_text.encode(_shown(one)), 201 if fresh else 200, media_type=JSON)


_HANDLED = "a Python worker has registered a handler for this type"


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
