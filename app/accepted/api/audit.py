"""GET /audit: who changed what."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from accepted.api.http.answers import header_docs
from accepted.api.http.auth import Admin, documented
from accepted.api.http.parameters import Listing, Page
from accepted.api.http.problems import REFUSALS, responses_for
from accepted.api.state import state_of
from accepted.domain import cursor
from accepted.domain.monitoring.audit import Action, to_wire
from accepted.services.jobs.requests import Moment
from accepted.storage.db.engine import reading
from accepted.storage.monitoring import audit

router = APIRouter(tags=["audit"], dependencies=documented)


class AuditQuery(Page):
    """The query of GET /audit."""

    action: Action | None = None
    since: Annotated[Moment, Field(description="at or after this")] | None = None


class ActingKeyView(BaseModel):
    """The API key of the request."""

    id: UUID
    name: str


class AuditEntryView(BaseModel):
    """An act. `key` is null without authentication; `address` too for a command that writes to the ledger itself."""

    id: UUID
    at: datetime
    tenant: str
    key: ActingKeyView | None
    address: str | None
    action: Action
    target: str | None = Field(
        description="The id or the name of what was changed; null for all that matched a filter."
    )
    detail: dict[str, Any] = Field(description="Never has a secret or a payload.")


class AuditPage(BaseModel):
    """A page of acts, newest first; `next` is the cursor of the next page."""

    items: list[AuditEntryView]
    next: str | None


@router.get(
    "/audit",
    response_model=AuditPage,
    responses={200: {"description": "A page.", "headers": header_docs("Link")}, **responses_for(*REFUSALS)},
)
async def list_(request: Request, who: Admin, query: Annotated[AuditQuery, Query()]) -> Response:
    """Who changed what in the last 400 days, newest first: the tenant's acts, or all for `operator`."""
    listing = Listing("/audit", who.tenant, query)
    before = listing.begin(cursor.read)
    async with reading(state_of(request).engine) as conn:
        found = await audit.page(conn, who.sees, query.action, query.since, before, query.limit + 1)
    items = [to_wire(entry) for entry in found[: query.limit]]
    return listing.answer(found, items, lambda entry, scope: cursor.write(entry.id, scope))
