"""The secret that a tenant's webhooks are signed with."""

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from accepted import errors
from accepted.api.http.answers import JSON
from accepted.api.http.auth import Admin, documented
from accepted.api.http.parameters import only_query
from accepted.api.http.problems import responses_for
from accepted.api.schemas import SecretView
from accepted.api.state import state_of
from accepted.domain import json_text
from accepted.domain.network import signing
from accepted.storage import webhooks
from accepted.storage.db.engine import transaction

router = APIRouter(tags=["webhooks"], dependencies=[*documented, Depends(only_query())])

_DENIED = responses_for(errors.InvalidRequest, errors.Unauthenticated, errors.Forbidden, errors.LedgerUnavailable)


@router.get("/webhook-secret", response_model=SecretView, responses=_DENIED)
async def get(request: Request, who: Admin) -> Response:
    """The current secret; one is made when there is none yet."""
    state = state_of(request)
    fresh = state.settings.webhook_secret or signing.new_secret()
    async with transaction(state.engine) as conn:
        secrets = await webhooks.current_secrets(conn, who.tenant, fresh)
        await conn.commit()
    return _answer(secrets)


@router.post("/webhook-secret/rotate", response_model=SecretView, responses=_DENIED)
async def rotate(request: Request, who: Admin) -> Response:
    """Make a new secret; webhooks are signed with both for 24 hours."""
    async with transaction(state_of(request).engine) as conn:
        secrets = await webhooks.rotate_secret(conn, who.tenant, signing.new_secret())
        await conn.commit()
    return _answer(secrets)


def _answer(secrets: list[str]) -> Response:
    body = json_text.encode({"secret": secrets[0], "previous": secrets[1:]})
    return Response(body, headers={"Cache-Control": "no-store"}, media_type=JSON)
