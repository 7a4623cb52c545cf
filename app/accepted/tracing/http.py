"""Spans of HTTP: of each request that the API answers, and of each call that a job makes.

Neither has a path or a query: a path may hold a lease, which is a secret, and the URL of a webhook often holds one.
"""

from typing import TYPE_CHECKING

from accepted.domain.network.urls import Target
from accepted.domain.references import is_traceparent
from accepted.tracing import context, setup
from accepted.tracing.spans import NONE, OpenSpan

if TYPE_CHECKING:
    from starlette.types import Scope

UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that are asked every few seconds, by programs."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

HEADER = "traceparent"


def request(scope: "Scope") -> OpenSpan:
    """A span for a request, as a child of the caller's."""
    tracer = setup.tracer()
    if tracer is None or scope["path"].removeprefix(scope.get("root_path", "")) in UNTRACED:
        return NONE
    sent = _sent(scope)
    dropped = setup.dropped(sent)
    context.send_on(dropped)
    if dropped is not None:
        return NONE
    from opentelemetry.trace import SpanKind

    within = context.within(None if sent is None else context.read(sent))
    method = scope["method"] if scope["method"] in METHODS else "_OTHER"
    attributes = {"http.request.method": method, "url.scheme": scope["scheme"]}
    if scope["client"]:
        attributes["client.address"] = scope["client"][0]
    return OpenSpan(tracer.start_span(_verb(method), within, SpanKind.SERVER, attributes))


def answered(span: OpenSpan, method: str, route: str, status: int) -> None:
    """Name the span by method and route, and say how the request ended. 5xx is our error, 4xx the caller's."""
    if span is NONE:
        return
    span.rename(f"{method} {route}")
    span.describe({"http.route": route, "http.response.status_code": status})
    if status >= 500:
        span.failed(str(status))


def call(method: str, target: Target) -> OpenSpan:
    """A span for a call, as a child of the attempt that makes it."""
    tracer = setup.tracer()
    if tracer is None or context.sent_on() is not None:
        return NONE
    from opentelemetry.trace import SpanKind

    attributes: dict[str, str | int] = {
        "http.request.method": method, "url.scheme": target.scheme,
        "server.address": target.host, "server.port": target.port,
    }  # fmt: skip
    return OpenSpan(tracer.start_span(method, kind=SpanKind.CLIENT, attributes=attributes))


def was_answered(span: OpenSpan, status: int) -> None:
    """For a call, 4xx is an error too."""
    span.describe({"http.response.status_code": status})
    if status >= 400:
        span.failed(str(status))


def _verb(method: str) -> str:
    return "HTTP" if method == "_OTHER" else method


def _sent(scope: "Scope") -> str | None:
    found = [value for name, value in scope["headers"] if name == b"traceparent"]
    sent = found[0].decode("latin-1") if len(found) == 1 else ""
    return sent if is_traceparent(sent) else None
