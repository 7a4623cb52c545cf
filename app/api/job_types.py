"""GET /job-types: what can be submitted, with the JSON Schema that a payload is checked against."""

import msgspec
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from app import errors
from app.api.auth import Reader, documented
from app.api.job_answers import JSON
from app.api.problems import responses_for
from app.api.query import only_query
from app.api.representations import JobTypeList
from app.api.state import state_of
from app.domain import json_text
from app.storage.job_types import JobType

router = APIRouter(tags=["job types"], dependencies=[*documented, Depends(only_query())])


@router.get(
    "/job-types",
    response_model=JobTypeList,
    responses=responses_for(errors.InvalidRequest, errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable),
)
async def list_(request: Request, who: Reader) -> Response:
    """Every type that a worker has registered."""
    types = await state_of(request).catalogue.all()
    return Response(json_text.encode({"items": [_shown(one) for one in types]}), media_type=JSON)


def _shown(one: JobType) -> dict[str, object]:
    return {
        "name": one.name,
        "description": one.description,
        "queue": one.queue,
        "retry": one.retry,
        "timeout": one.timeout,
        "not_found": one.not_found,
        "payload_schema": msgspec.Raw(one.payload_schema.encode()),
    }
