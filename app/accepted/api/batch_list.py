"""GET /batches: the tenant's batches and workflows."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from accepted.api.batches import PATH, BatchView
from accepted.api.http.answers import header_docs
from accepted.api.http.auth import Reader, documented
from accepted.api.http.parameters import Listing, Page
from accepted.api.http.problems import REFUSALS, responses_for
from accepted.api.state import state_of
from accepted.domain import cursor
from accepted.domain.batch import to_wire
from accepted.storage import batches
from accepted.storage.db.engine import reading

router = APIRouter(tags=["batches"], dependencies=documented)


class BatchPage(BaseModel):
    """A page of batches, newest first; `next` is the cursor of the next page."""

    items: list[BatchView]
    next: str | None


@router.get(
    PATH,
    response_model=BatchPage,
    responses={200: {"description": "A page.", "headers": header_docs("Link")}, **responses_for(*REFUSALS)},
)
async def list_(request: Request, who: Reader, query: Annotated[Page, Query()]) -> Response:
    """The tenant's batches, newest first, each with its jobs counted by status."""
    listing = Listing(PATH, who.tenant, query)
    before = listing.begin(cursor.read)
    async with reading(state_of(request).engine) as conn:
        found = await batches.page(conn, who.tenant, before, query.limit + 1)
    items = [to_wire(one) for one in found[: query.limit]]
    return listing.answer(found, items, lambda one, scope: cursor.write(one.id, scope))
