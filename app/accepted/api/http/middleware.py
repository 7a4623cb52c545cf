"""Around the routes: the request log, and the fast path of POST /jobs.

Pure ASGI (BaseHTTPMiddleware hides disconnects and leaks connections on cancellation).
"""

from time import perf_counter
from typing import Any

from fastapi import FastAPI
from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accepted import logs
from accepted.api.http.problems import answer_to, internal_error
from accepted.api.jobs import submission
from accepted.errors import AcceptedError

UNMATCHED = "unmatched"
CANCELLED = 499
"""The status in log and metrics when the client has gone; nginx uses it too."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_SUBMISSION_ROUTE = next(
    route for route in submission.router.routes if getattr(route, "endpoint", None) is submission.submit
)

HTTP_REQUESTS = Counter("accepted_http_requests_total", "Requests answered.", ["method", "route", "status"])
HTTP_SECONDS = Histogram(
    "accepted_http_request_seconds", "From the head of a request to the end of its answer.", ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 60),
)  # fmt: skip


class Application(FastAPI):
    """FastAPI, with a fast path for POST /jobs, the only request whose rate matters.

    FastAPI's middlewares, router, exit stacks and exception wrappers cost more than accepting a job does, and this
    route uses none of them: it reads the request itself. The fast path uses the same request log outside and the same
    `problems` for refusals. The route is still declared, so OpenAPI documents it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._submission = RequestLog(_submission)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/jobs" and scope["method"] == "POST":
            scope["app"] = self
            scope["route"] = _SUBMISSION_ROUTE
            await self._submission(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def _submission(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        response = await submission.accept(Request(scope, receive))
    except AcceptedError as error:
        response = answer_to(error, scope)
    await response(scope, receive, send)


class RequestLog:
    """Writes one canonical log line, one count and one duration for each request.

    A request is named by the template of its route, never by path, query or headers. So neither log nor metrics hold
    an id or a secret, and a scanner does not create a label for each address it tries.

    An unforeseen error ends here: it is logged without its text, answered as a bare 500, and not raised further,
    because the server would print its text.
    """

    def __init__(self, app: ASGIApp, *, access_log: bool = True) -> None:
        self._app = app
        self._access_log = access_log
        self._meters: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send)
        started = perf_counter()
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as exc:
            answer = internal_error(exc, scope)
            if exchange.status != CANCELLED:
                raise  # the answer has begun: the server cuts the connection
            await answer(scope, receive, exchange.send)
        finally:
            self._record(scope, exchange, perf_counter() - started)

    def _record(self, scope: Scope, exchange: "_Exchange", seconds: float) -> None:
        route = _template(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        key = (method, route, exchange.status)
        meters = self._meters.get(key)
        if meters is None:
            meters = (HTTP_REQUESTS.labels(*key).inc, HTTP_SECONDS.labels(method, route).observe)
            self._meters[key] = meters
        meters[0]()
        meters[1](seconds)
        if self._access_log:
            fields = {
                "method": method, "route": route, "status": exchange.status,
                "duration_ms": round(seconds * 1000, 3), "bytes_in": exchange.bytes_in,
            }  # fmt: skip
            state = scope.get("state")
            if state and "tenant" in state:
                fields["tenant"] = state["tenant"]
            logs.write("request", **fields)


class _Exchange:
    """The ASGI channels of one request, with the bytes received and the status sent."""

    __slots__ = ("_receive", "_send", "bytes_in", "status")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.bytes_in = 0
        self.status = CANCELLED

    async def receive(self) -> Message:
        message = await self._receive()
        body = message.get("body")
        if body:
            self.bytes_in += len(body)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


def _template(scope: Scope) -> str:
    """The path of the matched route as declared, with the prefix of its router."""
    route = scope.get("route")
    if route is None:
        return UNMATCHED
    included = scope.get("fastapi", {}).get("effective_route_context")  # FastAPI keeps the prefix only there
    return getattr(included or route, "path", UNMATCHED)
