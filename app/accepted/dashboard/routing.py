"""The routes of pages: no part of OpenAPI, and what goes wrong is a page for people with the same status.

`pages()` makes the router of a module of `accepted.dashboard.pages`.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from accepted.api.http.exposure import from_other_site
from accepted.api.http.problems import answer_to
from accepted.dashboard.calls import ApiRefusal
from accepted.dashboard.entrance import FromElsewhere, SignInNeeded, read_form, stranger
from accepted.dashboard.visit import HEADERS, Form, Visit
from accepted.domain.ids import link
from accepted.errors import AcceptedError, ResourceNotFound

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

SIGN_IN = "/ui/sign-in"

ENDED = "Your session has ended, and nothing is done yet. Sign in, and you can send what you have typed."

KEPT = "kept."
"""Before the name of a field that is kept while somebody signs in."""

_IN_QUERIES = "%:/?@!$&'()*+,;=~"
"""What stays as it is of a query that was sent. Its bytes may be any."""

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
    """A page. Without a session it leads to signing in, and after that back, with the form that was sent."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await _unless_unknown(handle, request)
            except FromElsewhere:
                return HTMLResponse(RELOADING, headers=HEADERS)
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


def sign_in_page(visit: Visit, wanted: str, refused: str = "", kept: Form | None = None) -> Response:
    """`wanted`: where one goes on to. `kept`: the form that was sent there without a session."""
    return visit.show(
        "sign-in.html", "Sign in", 403 if refused else 200, wanted=wanted, refused=refused, kept=kept,
        prefix=KEPT, action=link(SIGN_IN),
    )  # fmt: skip


def kept_form(form: Form) -> Form | None:
    """The form that `sign_in_page` has kept; None if it has none."""
    fields = {name.removeprefix(KEPT): values for name, values in form.items() if name.startswith(KEPT)}
    return fields if "is_kept" in form else None


async def _unless_unknown(handle: Handler, request: Request) -> Response:
    try:
        return await handle(request)
    except SignInNeeded:
        path = request.scope["path"].removeprefix(request.scope["root_path"])
        if request.method == "GET":
            return _to_sign_in(path, request.scope["query_string"])
        if from_other_site(request.scope["headers"]):
            return _to_sign_in("/", b"")
        form = await read_form(request)
        return sign_in_page(stranger(request), path, ENDED, {name: form[name] for name in form if name != "csrf"})


def _to_sign_in(path: str, query: bytes) -> Response:
    asked = f"{path}?{quote(query, safe=_IN_QUERIES)}" if query else path
    wanted = "" if asked == "/" else "?" + urlencode({"next": asked})
    return RedirectResponse(link(SIGN_IN) + wanted, 303, HEADERS)


def _of_error(error: AcceptedError, request: Request) -> ApiRefusal:
    return ApiRefusal(json.loads(bytes(answer_to(error, request.scope).body)))


def _refusal(request: Request, refusal: ApiRefusal) -> Response:
    known: Visit | None = request.scope.get("accepted.visit")
    visitor = known or stranger(request)
    return visitor.show("problem.html", refusal.problem["title"], refusal.status, refusal=refusal)
