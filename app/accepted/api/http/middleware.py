"""Around the routes: what proxies say, the request log, HEAD, and the fast path of POST /jobs.

Pure ASGI (BaseHTTPMiddleware hides disconnects and leaks connections on cancellation).
"""

import re
from time import perf_counter
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accepted import correlation, logs
from accepted.api.http.exposure import HOST, BrowserGuard
from accepted.api.http.problems import answer_to, internal_error
from accepted.api.jobs import submission
from accepted.domain.ids import MAX_ROOT, ROOT_PATTERN, as_sent, is_own_path, link, serve_under
from accepted.domain.network.addresses import IPNetwork, read_address, within
from accepted.errors import AcceptedError
from accepted.tracing import http as tracing
from accepted.tracing.spans import OpenSpan

UNMATCHED = "unmatched"
CANCELLED = 499
"""The status in log and metrics when the client has gone; nginx uses it too."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_REFUSED = "accepted.refused"
"""The key in a request's ASGI scope of the error that refuses it before it is routed."""

_UUID = re.compile("[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")

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

    def __init__(self, proxies: "ProxyHeaders", guard: BrowserGuard | None, **options: Any) -> None:
        super().__init__(**options)
        self._proxies = proxies
        self._guard = guard
        self._submission = RequestLog(_submission)
        self._refusal = RequestLog(_refusal)
        self._prefix_alone = RequestLog(_prefix_alone)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        sent = scope["headers"]
        self._proxies.apply(scope)
        if self._guard is not None and (refused := self._guard.refused(scope, sent)):
            scope[_REFUSED] = refused
            await self._refusal(scope, receive, send)
        elif scope["path"] == scope["root_path"] + "/jobs" and scope["method"] == "POST":
            scope["app"] = self
            scope["route"] = _SUBMISSION_ROUTE
            await self._submission(scope, receive, send)
        elif scope["path"] == scope["root_path"]:
            await self._prefix_alone(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class ProxyHeaders:
    """Where clients reach this service: under `root_path`, or as a trusted proxy says in X-Forwarded-*.

    Of several values the last counts, which the nearest proxy wrote; of X-Forwarded-For the last that is no trusted
    proxy. The headers of clients outside `trusted` are ignored, because anybody can send them. So are malformed values.
    """

    def __init__(self, root_path: str, trusted: tuple[IPNetwork, ...]) -> None:
        self._root_path = root_path
        self._trusted = trusted

    def apply(self, scope: Scope) -> None:
        """Set the root path, scheme, host and client of the request. The path may come with the prefix or without."""
        root = self._root_path
        if self._trusted and scope["client"] and self._trusts(scope["client"][0]):
            said = _forwarded(scope)
            root = _prefix(said, root)
            self._believe(scope, said)
        serve_under(root)
        scope["root_path"] = root
        if (path := as_sent(scope["path"])) != scope["path"]:
            scope["raw_path"] = root.encode() + (scope.get("raw_path") or quote(scope["path"]).encode())
            scope["path"] = path

    def _trusts(self, address: str) -> bool:
        found = read_address(address)
        return found is not None and within(found, self._trusted)

    def _believe(self, scope: Scope, said: dict[bytes, list[str]]) -> None:
        scheme = said.get(b"x-forwarded-proto", [""])[-1].lower()
        if scheme in ("http", "https"):
            scope["scheme"] = scheme
        host = said.get(b"x-forwarded-host", [""])[-1]
        if HOST.fullmatch(sent := host.encode("latin-1")):
            others = [field for field in scope["headers"] if field[0] != b"host"]
            scope["headers"] = [(b"host", sent), *others]
        for hop in reversed(said.get(b"x-forwarded-for", [])):
            address = read_address(hop)
            if address is None:
                return
            scope["client"] = (str(address), 0)
            if not within(address, self._trusted):
                return


def _forwarded(scope: Scope) -> dict[bytes, list[str]]:
    """The values of each X-Forwarded-* field, in order."""
    found: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        if name.startswith(b"x-forwarded-"):
            found.setdefault(name, []).extend(one.strip() for one in value.decode("latin-1").split(","))
    return found


def _prefix(said: dict[bytes, list[str]], otherwise: str) -> str:
    prefix = said.get(b"x-forwarded-prefix", [otherwise])[-1].rstrip("/")
    is_one = len(prefix) <= MAX_ROOT and re.fullmatch(ROOT_PATTERN, prefix) and not is_own_path(prefix)
    return prefix if is_one else otherwise


async def _submission(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        response = await submission.accept(Request(scope, receive))
    except AcceptedError as error:
        response = answer_to(error, scope)
    await response(scope, receive, send)


async def _prefix_alone(scope: Scope, receive: Receive, send: Send) -> None:
    """The prefix without its last slash, as people type it: on to the first page, which has the slash in its cookie."""
    query = scope["query_string"].decode("latin-1")
    await RedirectResponse(link("/") + (f"?{query}" if query else ""), 308)(scope, receive, send)


async def _refusal(scope: Scope, receive: Receive, send: Send) -> None:
    await answer_to(scope[_REFUSED], scope)(scope, receive, send)


class RequestLog:
    """Writes one canonical log line, one count and one duration for each request.

    A request is named by the template of its route, never by path, query or headers: a path may hold a secret, and a
    scanner must not create a label for each address it tries. The log names its request_id and its job.

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
        ids = correlation.ids_of_request(scope["headers"])
        correlation.bind(ids)
        exchange = _Exchange(receive, send, ids["request_id"])
        started = perf_counter()
        with tracing.request(scope) as span:
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except Exception as exc:
                answer = internal_error(exc, scope)
                if exchange.status != CANCELLED:
                    raise  # the answer has begun: the server cuts the connection
                await answer(scope, receive, exchange.send)
            finally:
                self._record(scope, exchange, perf_counter() - started, span)

    def _record(self, scope: Scope, exchange: "_Exchange", seconds: float, span: OpenSpan) -> None:
        route = _template(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        tracing.answered(span, method, route, exchange.status)
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
                "client": scope["client"][0] if scope["client"] else None,
            }  # fmt: skip
            known = {**_job_in_path(scope), **(scope.get("state") or {})}
            fields |= {name: known[name] for name in ("tenant", "job_id") if name in known}
            logs.write("request", **fields)


class HeadAsGet:
    """Answers HEAD as GET without the body (RFC 9110 section 9.3.2), for every route and every problem.

    The answer ends with its head. The server then tells a stream that its client has left, so it ends too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})

        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send_head)
        finally:
            scope.update(as_get | {"method": "HEAD"})  # the request log reads the route


class _Exchange:
    """The ASGI channels of one request, with the bytes received and the status sent. Its answer names `request_id`."""

    __slots__ = ("_receive", "_request_id", "_send", "bytes_in", "status")

    def __init__(self, receive: Receive, send: Send, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
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
            message["headers"] = [*message.get("headers", ()), (correlation.HEADER, self._request_id.encode())]
        await self._send(message)


def _job_in_path(scope: Scope) -> dict[str, str]:
    """`job_id` of a route that is about one job."""
    found = scope.get("path_params", {}).get("job_id")
    return {"job_id": found} if found and _UUID.fullmatch(found) else {}


def _template(scope: Scope) -> str:
    """The path of the matched route as declared, with the prefix of its router."""
    route = scope.get("route")
    if route is None:
        return UNMATCHED
    included = scope.get("fastapi", {}).get("effective_route_context")  # FastAPI keeps the prefix only there
    return getattr(included or route, "path", UNMATCHED)
