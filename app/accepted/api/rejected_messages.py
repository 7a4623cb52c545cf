"""GET /dead-letters/messages: what the broker holds that was no reference to a job."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.auth import Admin, documented
from accepted.api.http.problems import responses_for
from accepted.api.http.query import Whole, only_query
from accepted.api.jobs.answers import JSON
from accepted.api.schemas import RejectedView
from accepted.api.state import state_of
from accepted.domain import json_text

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
