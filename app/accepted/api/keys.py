"""GET and POST /keys, and POST /keys/{id}/revoke: the API keys of the caller's tenant.

A key that is made here has no scope that the caller's key lacks. `accepted keys create` makes the first one.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON, header_docs
from accepted.api.http.auth import Admin, documented
from accepted.api.http.body import body_docs, read_json
from accepted.api.http.parameters import Listing, Page, only_query
from accepted.api.http.problems import BODY_REFUSALS, REFUSALS, responses_for
from accepted.api.state import state_of
from accepted.domain import cursor, json_text
from accepted.domain.tenants import SCOPES
from accepted.errors import Forbidden, ResourceNotFound
from accepted.services import keys as service
from accepted.services.jobs.requests import printable
from accepted.services.jobs.validation import checked
from accepted.storage import tenants
from accepted.storage.db.engine import reading
from accepted.storage.tenants import ApiKey

router = APIRouter(tags=["keys"], dependencies=documented)

MAX_BODY = 4096
"""Bytes: a name and the scopes."""


class KeyRequest(BaseModel):
    """The key to make."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[
        StrictStr, Field(min_length=1, max_length=200, description="what the key is for"), AfterValidator(printable)
    ]
    scopes: Annotated[list[Literal[SCOPES]], Field(min_length=1, max_length=len(SCOPES))]  # type: ignore[valid-type]


class KeyView(BaseModel):
    """An API key, without its secret."""

    id: UUID
    name: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None


class KeyPage(BaseModel):
    """A page of keys, the oldest first; `next` is the cursor of the next page."""

    items: list[KeyView]
    next: str | None


class MadeKeyView(KeyView):
    """A key that was made now. `key` is its secret, which is not stored and cannot be read again."""

    key: str


@router.get(
    "/keys",
    response_model=KeyPage,
    responses={200: {"description": "A page.", "headers": header_docs("Link")}, **responses_for(*REFUSALS)},
)
async def list_(request: Request, who: Admin, query: Annotated[Page, Query()]) -> Response:
    """The tenant's keys, the oldest first, also those that are revoked."""
    listing = Listing("/keys", who.tenant, query)
    after = listing.begin(cursor.read)
    async with reading(state_of(request).engine) as conn:
        found = await tenants.keys_of(conn, who.tenant, after, query.limit + 1)
    items = [_shown(one) for one in found[: query.limit]]
    return listing.answer(found, items, lambda one, scope: cursor.write(one.id, scope))


@router.post(
    "/keys",
    status_code=201,
    response_model=MadeKeyView,
    dependencies=[Depends(only_query())],
    responses=responses_for(*BODY_REFUSALS),
    openapi_extra=body_docs(KeyRequest),
)
async def create(request: Request, who: Admin) -> Response:
    """Make a key of the tenant. 403 for a scope that the caller's key lacks."""
    wanted = checked(KeyRequest, await read_json(request, MAX_BODY))
    if beyond := sorted(set(wanted.scopes) - who.scopes):
        raise Forbidden(f"this API key lacks the scope {beyond[0]}, and can make no key that has it")
    state = state_of(request)
    key_id, key = await service.create(state.engine, who.tenant, wanted.name, sorted(set(wanted.scopes)))
    made = await _find(request, who.tenant, key_id)
    body = json_text.encode(_shown(made) | {"key": key})
    return Response(body, 201, {"Cache-Control": "no-store"}, media_type=JSON)


@router.post(
    "/keys/{key_id}/revoke",
    response_model=KeyView,
    dependencies=[Depends(only_query())],
    responses=responses_for(errors.ResourceNotFound, *REFUSALS),
)
async def revoke(request: Request, who: Admin, key_id: UUID) -> Response:
    """Revoke a key of the tenant, and what waits under it. A key that is revoked already stays as it is."""
    await _find(request, who.tenant, key_id)
    state = state_of(request)
    await service.revoke(state.engine, key_id)
    state.keys.forget()
    return Response(json_text.encode(_shown(await _find(request, who.tenant, key_id))), media_type=JSON)


async def _find(request: Request, tenant: str, key_id: UUID) -> ApiKey:
    """Raises `ResourceNotFound`."""
    async with reading(state_of(request).engine) as conn:
        found = await tenants.key_of(conn, tenant, key_id)
    if found is None:
        raise ResourceNotFound("no such key")
    return found


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }
