"""What every request leaves behind: one canonical log line, one count, one duration.

Pure ASGI (BaseHTTPMiddleware hides disconnects and leaks connections on cancellation). Requests are named by
the template of their route, never by path, query or headers, so that neither log nor metrics holds an id, a
secret, or a label for every address that a scanner tries.

It is also where an unforeseen error ends: it is logged without its text, answered as a bare 500, and goes no
further, because the server would print the text.
"""

from time import perf_counter
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accepted import logs
from accepted.api.http.problems import internal_error

UNMATCHED = "unmatched"
CANCELLED = 499  # as nginx has it: nobody waits for the answer any more

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

HTTP_REQUESTS = Counter("accepted_http_requests_total", "Requests answered.", ["method", "route", "status"])
HTTP_SECONDS = Histogram(
    "accepted_http_request_seconds", "From the head of a request to the end of its answer.", ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 60),
)  # fmt: skip


class RequestLog:
    """Wrap the application in it: `app.add_middleware(RequestLog, access_log=True)`."""

    def __init__(self, app: ASGIApp, *, access_log: bool = True) -> None:
        self._app = app
        self._access_log = access_log
        self._meters: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = _Seen(receive, send)
        started = perf_counter()
        try:
            await self._app(scope, seen.receive, seen.send)
        except Exception as exc:
            answer = internal_error(exc, scope)
            if seen.status != CANCELLED:
                raise  # too late for an answer: the server cuts the connection
            await answer(scope, receive, seen.send)
        finally:
            self._record(scope, seen, perf_counter() - started)

    def _record(self, scope: Scope, seen: "_Seen", seconds: float) -> None:
        route = _template(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        key = (method, route, seen.status)
        meters = self._meters.get(key)
        if meters is None:
            meters = (HTTP_REQUESTS.labels(*key).inc, HTTP_SECONDS.labels(method, route).observe)
            self._meters[key] = meters
        meters[0]()
        meters[1](seconds)
        if self._access_log:
            fields = {
                "method": method, "route": route, "status": seen.status,
                "duration_ms": round(seconds * 1000, 3), "bytes_in": seen.bytes_in,
            }  # fmt: skip
            state = scope.get("state")
            if state and "tenant" in state:
                fields["tenant"] = state["tenant"]
            logs.write("request", **fields)


class _Seen:
    """What passed between server and application in one request."""

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
    """The path of the matched route as it was declared, with the prefix of its router."""
    route = scope.get("route")
    if route is None:
        return UNMATCHED
    included = scope.get("fastapi", {}).get("effective_route_context")  # FastAPI keeps the prefix only there
    return getattr(included or route, "path", UNMATCHED)
