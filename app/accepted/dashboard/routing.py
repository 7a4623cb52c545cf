"""The routes of pages: no part of OpenAPI, and what goes wrong is a page for people with the same status.

`pages()` makes the router of a module of `accepted.dashboard.pages`.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from accepted.api.http.problems import answer_to
from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.entrance import FromElsewhere, SignInNeeded
from accepted.dashboard.visit import HEADERS, SESSION, Visit
from accepted.domain.ids import link
from accepted.errors import AcceptedError, ResourceNotFound
from accepted.services.sessions import new_token

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

SIGN_IN = "/ui/sign-in"

RELOADING = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta http-equiv="refresh" content="0"><title>Accepted</title></head>
<body><nav><a href="">Accepted</a></nav><main><p><a href="">Go on</a></p></main></body>
</html>
"""
"""A page that loads itself again at once: then the request is one of this site, and has the cookie of the session."""


def pages() -> APIRouter:
    """A router of pages."""
    return APIRouter(include_in_schema=False, route_class=PageRoute)


class PageRoute(APIRoute):
    """A page. Without a session it leads to signing in, and after that back."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except FromElsewhere:
                return HTMLResponse(RELOADING, headers=HEADERS)
            except SignInNeeded:
                return _to_sign_in(request)
            except ApiRefusal as refusal:
                return _refusal(request, refusal)
            except RequestValidationError:
                return _refusal(request, _of_error(ResourceNotFound(), request))
            except AcceptedError as error:
                return _refusal(request, _of_error(error, request))

        return answer


def own_path(path: str) -> str:
    """A path of this service to go on to after signing in; the first page if it is none."""
    ours = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if ours and len(path) < 2000 else "/"


def _to_sign_in(request: Request) -> Response:
    path = request.scope["path"].removeprefix(request.scope["root_path"])
    query = f"?{request.url.query}" if request.url.query else ""
    asked = path + query if request.method == "GET" else "/"
    wanted = "" if asked == "/" else "?" + urlencode({"next": asked})
    return RedirectResponse(link(SIGN_IN) + wanted, 303, HEADERS)


def _of_error(error: AcceptedError, request: Request) -> ApiRefusal:
    return ApiRefusal(json.loads(bytes(answer_to(error, request.scope).body)))


def _refusal(request: Request, refusal: ApiRefusal) -> Response:
    known: Visit | None = request.scope.get("accepted.visit")
    visitor = known or Visit(request, None, request.cookies.get(SESSION) or new_token())
    return visitor.show("problem.html", refusal.problem["title"], refusal.status, refusal=refusal)
