"""GET /dead-letters/messages: what the broker holds that was no reference to a job."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from app import errors
from app.api.auth import Admin, documented
from app.api.job_answers import JSON
from app.api.problems import responses_for
from app.api.query import Whole, only_query
from app.api.representations import RejectedView
from app.api.state import state_of
from app.domain import json_text

router = APIRouter(tags=["dead letters"], dependencies=[*documented, Depends(only_query("limit"))])


@router.get(
    "/dead-letters/messages",
    response_model=RejectedView,
    responses=responses_for(
        errors.InvalidRequest,
        errors.Unauthenticated,
        errors.Forbidden,
        errors.LedgerUnavailable,
        errors.BrokerUnavailable,
    ),
)
async def messages(request: Request, who: Admin, limit: Annotated[Whole, Query(ge=1, le=100)] = 20) -> Response:
    """The oldest messages of `accepted.dead` and how many there are, of all tenants. They stay where they are."""
    found = await state_of(request).broker.rejected(limit)
    return Response(json_text.encode({"count": found.count, "items": found.messages}), media_type=JSON)
