"""The guarded HTTP client: every call to an address that a client's data can choose goes through `Egress.send`.

It guarantees, whatever the target is or answers:

- The address connected to is the address checked. A name is resolved once for each call, every address found
  is checked, and the socket is opened to one of them. TLS still checks the certificate against the name.
- No redirect is followed, no proxy or other environment variable is read, no Unix socket is reachable.
- A body is not decoded, and not read beyond the caller's cap. One deadline covers the whole call.
- Once status and headers have come there is an answer, even if its body breaks off: the target has acted.
- Any error before that is raised as one of `accepted.domain.failures`, without the URL in its text.

What a request may be is decided here; what goes over the wire is in `accepted_worker.outbound.exchange`. The first call
loads that, because httpx and httpcore take 0.2 s to load, and many workers make no call.
"""

import asyncio
import importlib
import logging
import re
import ssl
from collections.abc import Mapping

from accepted.context import HttpAnswer
from accepted.domain.failures import InvalidJob
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.network.urls import Target, UrlRefused, parse_target
from accepted.tracing import http as tracing
from accepted.tracing.context import traceparent
from accepted_worker.outbound.lookup import Lookup, Resolve

# More calls at a time than a worker process has slots; keeps the process from running out of file descriptors.
MAX_IN_FLIGHT = 500

USER_AGENT = "Accepted/1"
# They have a body, if only an empty one, and say so with a Content-Length (RFC 9110, 8.6).
METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
FIELD_VALUE = r"(?:[!-~](?:[\t -~]*[!-~])?)?"
# Names that decide how the message is framed, where it goes, or how its answer is encoded: ours alone to set.
RESERVED_HEADERS = (
    "accept-encoding", "connection", "content-length", "expect", "host", "http2-settings", "keep-alive", "te",
    "trailer", "transfer-encoding", "upgrade",
)  # fmt: skip
RESERVED_PREFIXES = ("proxy-",)

# They log URLs with their query strings, and httpcore at DEBUG every header, Authorization too.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class Egress:
    """The guarded HTTP client of a process. Keeps no connection between calls, only the DNS threads."""

    def __init__(
        self, allow: EgressAllow, *, resolve: Resolve | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        """`ssl_context`: for a private certificate authority; the default trusts the bundle of certifi."""
        self._allow = allow
        self._lookup = Lookup(resolve)
        self._ssl_context = ssl_context
        self._loaded = False
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: bytes,
        *,
        timeout: float,
        max_bytes: int,
    ) -> HttpAnswer:
        """Call `url`. Returns an answer of any status, also one whose body breaks off or is cut at `max_bytes`.

        The `timeout` (seconds) does not count while the call waits for one of our slots. Raises `InvalidJob`
        (URL, header or address: never to be retried), `TargetTimeout`, and `TransientError` for the rest.
        """
        try:
            target = parse_target(url, self._allow)
        except UrlRefused as refusal:
            raise InvalidJob(str(refusal)) from None
        with tracing.call(method, target) as span:
            answer = await self._exchanged(method, target, _traced(headers), content, timeout, max_bytes)
            tracing.was_answered(span, answer.status_code)
        return answer

    async def aclose(self) -> None:
        """Stop the DNS threads; a lookup that hangs keeps its thread until it ends."""
        self._lookup.close()

    async def _exchanged(
        self,
        method: str,
        target: Target,
        headers: Mapping[str, str],
        content: bytes,
        timeout: float,
        max_bytes: int,
    ) -> HttpAnswer:
        fields = _fields(method, target, headers, content)
        await self._load()
        from accepted_worker.outbound import exchange

        request = exchange.request(method, target, fields, content)
        tls = self._ssl_context or exchange.trusting_certifi()
        async with self._slots:
            line = exchange.GuardedLine(target, self._allow, self._lookup, max_bytes)
            return await exchange.exchanged(line, request, tls, timeout, max_bytes)

    async def _load(self) -> None:
        """In a thread: other attempts run on meanwhile."""
        if not self._loaded:
            await asyncio.to_thread(importlib.import_module, "accepted_worker.outbound.exchange")
            self._loaded = True


def _traced(headers: Mapping[str, str]) -> Mapping[str, str]:
    """With the trace context, unless the job sends one of its own."""
    if (sent := traceparent()) is None or any(name.lower() == tracing.HEADER for name in headers):
        return headers
    return {**headers, tracing.HEADER: sent}


def _fields(method: str, target: Target, headers: Mapping[str, str], content: bytes) -> list[tuple[str, str]]:
    """The header fields. Raises `InvalidJob` for a method or header that the API should have refused."""
    if not re.fullmatch(r"[A-Z]{1,20}", method) or method in ("CONNECT", "TRACE"):
        raise InvalidJob("method not allowed")
    for name, value in headers.items():
        _check_header(name, value)
    given = {name.lower() for name in headers}
    ours = [("Host", target.netloc), ("Accept-Encoding", "identity"), ("Connection", "close")]
    ours += [pair for pair in (("User-Agent", USER_AGENT), ("Accept", "*/*")) if pair[0].lower() not in given]
    if content or method in METHODS_WITH_BODY:
        ours.append(("Content-Length", str(len(content))))
    return [*ours, *headers.items()]


def _check_header(name: str, value: str) -> None:
    lower = name.lower()
    if not re.fullmatch(TOKEN, name) or lower in RESERVED_HEADERS or lower.startswith(RESERVED_PREFIXES):
        raise InvalidJob("header name not allowed")
    if not re.fullmatch(FIELD_VALUE, value):
        raise InvalidJob("header value not allowed")
