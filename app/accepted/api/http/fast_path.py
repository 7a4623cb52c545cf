"""The application, with a fast path for POST /jobs: the one request whose rate matters.

FastAPI's middlewares, router, exit stacks and exception wrappers cost more than accepting a job does, and the route
uses none of them: it reads the request itself. What FastAPI would do for it is done here, in the same order, by the
same parts: the request log outside, `problems` for what is refused.
"""

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from accepted.api.http.problems import answer_to
from accepted.api.http.request_log import RequestLog
from accepted.api.jobs.submission import accept, router, submit
from accepted.errors import AcceptedError

_ROUTE = next(route for route in router.routes if getattr(route, "endpoint", None) is submit)
_PATH = "/jobs"


class Application(FastAPI):
    """Everything but POST /jobs goes FastAPI's way; the OpenAPI document does not tell the difference."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._submission = RequestLog(_submission)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == _PATH and scope["method"] == "POST":
            scope["app"] = self
            scope["route"] = _ROUTE
            await self._submission(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def _submission(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        response = await accept(Request(scope, receive))
    except AcceptedError as error:
        response = answer_to(error, scope)
    await response(scope, receive, send)
