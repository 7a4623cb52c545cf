"""Authentication: bearer keys, scopes, and the tenant to which every query is limited."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Security
from fastapi.routing import iter_route_contexts
from fastapi.security import HTTPBearer
from starlette.requests import Request

from accepted.api.state import state_of
from accepted.domain.tenants import OPERATOR_SCOPE, SCOPES, granted
from accepted.errors import Forbidden, LedgerUnavailable, Unauthenticated
from accepted.services.keys import EVERYONE, Principal, hash_key
from accepted.services.monitoring import audit

KNOWN = "accepted.principal"
"""The key in the scope of a call that the dashboard makes of the caller, whom it has found by a session."""

_SCHEME = HTTPBearer(auto_error=False, description="An API key: `accepted keys create`")


async def authenticate(request: Request, *scopes: str) -> Principal:
    """The caller, who needs one of `scopes`. Raises `Unauthenticated`, `Forbidden` or `LedgerUnavailable`."""
    principal = await _principal(request)
    request.scope.setdefault("state", {})["tenant"] = principal.tenant
    if principal.scopes.isdisjoint(scopes):
        raise Forbidden(f"this API key lacks the scope {' or '.join(scopes)}")
    return principal


@contextlib.asynccontextmanager
async def unless_revoked(request: Request, *scopes: str) -> AsyncIterator[None]:
    """Around a wait: cancels it as soon as the caller's key is revoked. Raises `Unauthenticated` then.

    Call it inside the wait's task, and not around a `yield`. While the ledger is away nobody can say, and it goes on.
    """
    state = state_of(request)
    if state.settings.auth == "off":
        yield
        return
    async with state.keys.unless_revoked(hash_key(_presented(request))):
        await _authenticate_again(request, *scopes)
        yield
    await _authenticate_again(request, *scopes)


async def _authenticate_again(request: Request, *scopes: str) -> None:
    with contextlib.suppress(LedgerUnavailable):
        await authenticate(request, *scopes)


def needs(*scopes: str) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency that requires one of `scopes` and returns the caller, who is the actor of what the route does."""

    async def dependency(request: Request) -> Principal:
        principal = await authenticate(request, *scopes)
        address = request.client.host if request.client else None
        audit.act_as(audit.Actor(principal.tenant, principal.key_id, principal.name, address))
        return principal

    dependency.scopes = scopes  # type: ignore[attr-defined]
    return dependency


def said(*scopes: str) -> Any:
    """A dependency that checks nothing: it says what a route that calls `authenticate` itself asks for."""

    async def dependency() -> None: ...

    dependency.scopes = scopes  # type: ignore[attr-defined]
    return Depends(dependency)


def say_scopes(app: FastAPI, document: dict[str, Any]) -> None:
    """Write into an OpenAPI document which scopes each operation needs: one of several security requirements."""
    for route in iter_route_contexts(app.routes):
        dependant = getattr(route, "dependant", None)
        called = [one.call for one in dependant.dependencies] if dependant else []
        scopes = next((call.scopes for call in called if hasattr(call, "scopes")), ())
        for method in route.methods or () if scopes else ():
            operation = document["paths"].get(route.path, {}).get(method.lower(), {})
            (scheme,) = operation.get("security", [{}])[0] or ("",)
            operation["security"] = [{scheme: [scope]} for scope in _sufficient(scopes)]


REGISTRAR_SCOPES = ("jobs:work", "admin")
"""One of them is for the job types of one's own tenant."""

documented = [Security(_SCHEME)]
"""Documents the scheme in OpenAPI; `authenticate` makes the check."""

Reader = Annotated[Principal, Depends(needs("jobs:read"))]
Writer = Annotated[Principal, Depends(needs("jobs:write"))]
Worker = Annotated[Principal, Depends(needs("jobs:work"))]
WebhooksReader = Annotated[Principal, Depends(needs("webhooks:read"))]
WebhooksWriter = Annotated[Principal, Depends(needs("webhooks:write"))]
DeliveryReader = Annotated[Principal, Depends(needs("jobs:read", "webhooks:read"))]
DeliveryWriter = Annotated[Principal, Depends(needs("jobs:write", "webhooks:write"))]
QueueAdmin = Annotated[Principal, Depends(needs("queues:admin", OPERATOR_SCOPE))]
Registrar = Annotated[Principal, Depends(needs(*REGISTRAR_SCOPES, OPERATOR_SCOPE))]
Admin = Annotated[Principal, Depends(needs("admin"))]
Drainer = Annotated[Principal, Depends(needs("admin", OPERATOR_SCOPE))]


def _sufficient(scopes: Iterable[str]) -> list[str]:
    return [scope for scope in SCOPES if not granted([scope]).isdisjoint(scopes)]


async def _principal(request: Request) -> Principal:
    state = state_of(request)
    if state.settings.auth == "off":
        return EVERYONE
    if (known := request.scope.get(KNOWN)) is not None:
        return cast(Principal, known)
    principal = await state.keys.principal(_presented(request))
    if principal is None:
        raise Unauthenticated("this API key is unknown or revoked")
    return principal


def _presented(request: Request) -> bytes:
    """The key in the header. Raises `Unauthenticated`."""
    given = next((value for name, value in request.scope["headers"] if name == b"authorization"), b"")
    scheme, _, key = given.partition(b" ")
    if scheme.lower() != b"bearer" or not key.strip():
        raise Unauthenticated("send an API key: Authorization: Bearer acc_...")
    return bytes(key.strip())
