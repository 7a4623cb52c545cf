"""GET and PATCH /queues/{name}: the limits of a queue. Queues belong to the operator, not to a tenant."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path
from starlette.requests import Request
from starlette.responses import Response

from app import errors
from app.api.auth import Admin, Reader, documented
from app.api.body import body_docs, read_json
from app.api.job_answers import JSON
from app.api.problems import responses_for
from app.api.query import only_query
from app.api.queue_schemas import QueuePatch, QueueView
from app.api.state import state_of
from app.domain import json_text
from app.domain.job import QUEUE_PATTERN
from app.errors import NotFound
from app.services.validation import checked
from app.storage import queues
from app.storage.engine import reading, transaction
from app.storage.queues import QueueSettings

router = APIRouter(tags=["queues"], dependencies=[*documented, Depends(only_query())])

Name = Annotated[str, Path(pattern=QUEUE_PATTERN)]
"""What no queue can be called is not there: 404."""

_DENIED = (errors.InvalidRequest, errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable)

MAX_BODY = 4096
"""Bytes: a handful of numbers."""


@router.get("/queues/{name}", response_model=QueueView, responses=responses_for(errors.NotFound, *_DENIED))
async def get(request: Request, who: Reader, name: Name) -> Response:
    """A queue and its limits."""
    async with reading(state_of(request).engine) as conn:
        found = await queues.settings_of(conn, name)
    if found is None:
        raise NotFound("no job has named this queue, and nobody has set a limit for it")
    return _answer(found)


@router.patch(
    "/queues/{name}",
    response_model=QueueView,
    responses=responses_for(
        errors.NotFound, errors.MalformedRequest, errors.UnsupportedMedia, errors.TooLarge, *_DENIED
    ),
    openapi_extra=body_docs(QueuePatch),
)
async def patch(request: Request, who: Admin, name: Name) -> Response:
    """Set the limits that the body names; null removes one, and what is left out stays as it is."""
    asked = checked(QueuePatch, await read_json(request, MAX_BODY))
    async with transaction(state_of(request).engine) as conn:
        changed = await queues.change(conn, name, asked.columns())
        await conn.commit()
    return _answer(changed)


def _answer(found: QueueSettings) -> Response:
    body: dict[str, Any] = msgspec.structs.asdict(found)
    return Response(json_text.encode(body), media_type=JSON)
