"""GET /queues, GET and PATCH /queues/{name}, and its sizing. Queues belong to the operator, not to a tenant.

Names, limits, rates and slots are the queue's, whoever asks. How much waits, and for how long, is told of all jobs to
`admin`, and of the tenant's own to everybody else.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.auth import Admin, Reader, documented
from accepted.api.http.body import body_docs, read_json
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import responses_for
from accepted.api.queue_schemas import QueueList, QueuePatch, QueueView, SizingQuery, SizingView
from accepted.api.state import state_of
from accepted.domain import json_text
from accepted.domain.job import QUEUE_PATTERN
from accepted.errors import ResourceNotFound
from accepted.services import queues as service
from accepted.services.jobs.validation import checked
from accepted.services.keys import Principal
from accepted.storage import queues
from accepted.storage.db.engine import transaction

router = APIRouter(tags=["queues"], dependencies=documented)

Name = Annotated[str, Path(pattern=QUEUE_PATTERN)]
"""What no queue can be called is not there: 404."""

_DENIED = (errors.InvalidRequest, errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable)

MAX_BODY = 4096
"""Bytes: a handful of numbers."""

UNNAMED = "no job has named this queue, and nobody has set a limit for it"


@router.get(
    "/queues", response_model=QueueList, dependencies=[Depends(only_query())], responses=responses_for(*_DENIED)
)
async def list_(request: Request, who: Reader) -> Response:
    """Every queue, by name."""
    state = state_of(request)
    found = await service.describe_all(state.engine, _whose(who), state.settings.lease_ttl)
    return Response(json_text.encode({"items": found}), media_type=JSON)


@router.get(
    "/queues/{name}",
    response_model=QueueView,
    dependencies=[Depends(only_query())],
    responses=responses_for(errors.ResourceNotFound, *_DENIED),
)
async def get(request: Request, who: Reader, name: Name) -> Response:
    """A queue: its limits, what is on it, and what was measured."""
    return await _shown(request, who, name)


@router.get(
    "/queues/{name}/sizing", response_model=SizingView, responses=responses_for(errors.ResourceNotFound, *_DENIED)
)
async def sizing(request: Request, who: Reader, name: Name, asked: Annotated[SizingQuery, Query()]) -> Response:
    """How many slots the queue needs: the number that an autoscaler reads."""
    state = state_of(request)
    found = await service.sizing(state.engine, name, asked.drain_within, state.settings.lease_ttl)
    if found is None:
        raise ResourceNotFound(UNNAMED)
    return Response(json_text.encode(found), media_type=JSON)


@router.patch(
    "/queues/{name}",
    response_model=QueueView,
    dependencies=[Depends(only_query())],
    responses=responses_for(
        errors.ResourceNotFound, errors.MalformedRequest, errors.UnsupportedMedia, errors.TooLarge, *_DENIED
    ),
    openapi_extra=body_docs(QueuePatch),
)
async def patch(request: Request, who: Admin, name: Name) -> Response:
    """Set the limits that the body names; null removes one, and what is left out stays as it is."""
    asked = checked(QueuePatch, await read_json(request, MAX_BODY))
    async with transaction(state_of(request).engine) as conn:
        await queues.change(conn, name, asked.columns())
        await conn.commit()
    return await _shown(request, who, name)


async def _shown(request: Request, who: Principal, name: str) -> Response:
    state = state_of(request)
    found = await service.describe(state.engine, name, _whose(who), state.settings.lease_ttl)
    if found is None:
        raise ResourceNotFound(UNNAMED)
    return Response(json_text.encode(found), media_type=JSON)


def _whose(who: Principal) -> str | None:
    """Whose jobs he sees counted; None: everybody's."""
    return None if "admin" in who.scopes else who.tenant
