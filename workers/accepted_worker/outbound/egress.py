"""The guarded HTTP client: every call to an address that a client's data can choose goes through `Egress.send`.

It guarantees, whatever the target is or answers:

- The address connected to is the address checked. A name is resolved once for each call, every address found
  is checked, and the socket is opened to one of them. TLS still checks the certificate against the name.
- No redirect is followed, no proxy or other environment variable is read, no Unix socket is reachable.
- A body is not decoded, and not read beyond the caller's cap. One deadline covers the whole call.
- Once status and headers have come there is an answer, even if its body breaks off: the target has acted.
- Any error before that is raised as one of `accepted.domain.failures`, without the URL in its text.

Each call has a connection of its own. A kept one that the server has just closed would cost a job an attempt.
Nor would it be faster: httpcore's pool walks all its connections for each call, 5 to 7 ms of CPU with 300 in
flight, against 1 ms here, 2 ms with a TLS handshake (measured).
"""

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import httpcore
import httpx

from accepted.context import HttpAnswer
from accepted.domain.failures import HandlerError, InvalidJob, TargetTimeout, TransientError
from accepted.domain.network.addresses import EgressAllow, IPAddress, unmapped
from accepted.domain.network.urls import FORBIDDEN_ADDRESS, Target, UrlRefused, parse_target
from accepted_worker.outbound.lookup import Lookup, Resolve

# More calls at a time than a worker process has slots; keeps the process from running out of file descriptors.
MAX_IN_FLIGHT = 500
# Addresses of a name that are tried, and seconds for each but the last: a dead IPv6 route costs seconds.
MAX_ADDRESSES_TRIED = 4
CONNECT_TRY_SECONDS = 3.0
# Parsing runs on the event loop: small reads keep a flood of 1-byte chunks from delaying other jobs.
READ_BYTES = 16 * 1024
# Bytes that may arrive for a body of n bytes: headers and 1xx answers, and chunks of a byte (6 bytes on the wire).
HEAD_BYTES = 256 * 1024
CHUNK_OVERHEAD = 8

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


@dataclass(slots=True)
class _Coming:
    """The part of an answer that has arrived."""

    head: httpcore.Response | None = None
    body: bytearray = field(default_factory=bytearray)


class Egress:
    """The guarded HTTP client of a process. Keeps no connection between calls, only the DNS threads."""

    def __init__(
        self, allow: EgressAllow, *, resolve: Resolve | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        """`ssl_context`: for a private certificate authority; the default trusts the bundle of certifi."""
        self._allow = allow
        self._lookup = Lookup(resolve)
        self._ssl_context = ssl_context or httpx.create_ssl_context(trust_env=False)
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
        request = _request(method, target, headers, content)
        async with self._slots:
            return await self._within(timeout, target, request, max_bytes)

    async def aclose(self) -> None:
        """Stop the DNS threads; a lookup that hangs keeps its thread until it ends."""
        self._lookup.close()

    async def _within(self, seconds: float, target: Target, request: httpcore.Request, max_bytes: int) -> HttpAnswer:
        line = _GuardedLine(target, self._allow, self._lookup, HEAD_BYTES + CHUNK_OVERHEAD * max_bytes)
        coming = _Coming()
        broken_off: HandlerError | None = None
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                await self._exchange(line, request, max_bytes, coming)
        except HandlerError:
            raise
        except Exception as error:
            late = TargetTimeout("the target did not answer in time")
            broken_off = late if deadline.expired() else _translated(error)
            if coming.head is None:
                raise broken_off from None
        finally:
            await line.hang_up()
        return _answer(coming, max_bytes, broken_off)

    async def _exchange(self, line: "_GuardedLine", request: httpcore.Request, max_bytes: int, coming: _Coming) -> None:
        connection = httpcore.AsyncHTTPConnection(
            request.url.origin, ssl_context=self._ssl_context, network_backend=line
        )
        coming.head = await connection.handle_async_request(request)
        async for chunk in coming.head.aiter_stream():
            coming.body += chunk
            if len(coming.body) > max_bytes:
                break
        await coming.head.aclose()


class _GuardedLine(httpcore.AsyncNetworkBackend):
    """The network for one call: only the checked addresses of its target."""

    def __init__(self, target: Target, allow: EgressAllow, lookup: Lookup, budget: int) -> None:
        self._target = target
        self._allow = allow
        self._lookup = lookup
        self._budget = budget
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check, connect. `InvalidJob`, before any packet is sent, if one address is forbidden."""
        addresses = await self._checked_addresses(host, port)
        self._stream = await _connect_first(addresses[:MAX_ADDRESSES_TRIED], port)
        return _MeteredStream(self._stream, self._budget)

    async def hang_up(self) -> None:
        """Close the socket, wherever the call stopped: httpcore leaks it when a TLS handshake is cancelled."""
        if self._stream is not None:
            with suppress(Exception):
                await self._stream.aclose()

    async def _checked_addresses(self, host: str, port: int) -> list[IPAddress]:
        address = self._target.address
        found = [address] if address is not None else await self._lookup(host, port)
        if not all(self._allow.permits(each, host) for each in found):
            raise InvalidJob(FORBIDDEN_ADDRESS)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        return list(dict.fromkeys(unmapped(each) for each in found))


class _MeteredStream(httpcore.AsyncNetworkStream):
    """A stream that raises when more arrives than the call allows, such as a flood of 1xx answers."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, budget: int) -> None:
        self._stream = stream
        self._left = budget

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._stream.read(min(max_bytes, READ_BYTES), timeout)
        self._left -= len(data)
        if self._left < 0:
            raise httpcore.RemoteProtocolError("more bytes than the answer can account for")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _MeteredStream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._left)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


async def _connect_first(addresses: list[IPAddress], port: int) -> httpcore.AsyncNetworkStream:
    network = httpcore.AnyIOBackend()
    for address in addresses[:-1]:
        try:
            return await network.connect_tcp(str(address), port, CONNECT_TRY_SECONDS)
        except (httpcore.ConnectError, httpcore.ConnectTimeout):
            continue
    return await network.connect_tcp(str(addresses[-1]), port)


def _request(method: str, target: Target, headers: Mapping[str, str], content: bytes) -> httpcore.Request:
    """The request. Raises `InvalidJob` for a method or header that the API should have refused."""
    if not re.fullmatch(r"[A-Z]{1,20}", method) or method in ("CONNECT", "TRACE"):
        raise InvalidJob("method not allowed")
    for name, value in headers.items():
        _check_header(name, value)
    given = {name.lower() for name in headers}
    ours = [("Host", target.netloc), ("Accept-Encoding", "identity"), ("Connection", "close")]
    ours += [pair for pair in (("User-Agent", USER_AGENT), ("Accept", "*/*")) if pair[0].lower() not in given]
    if content or method in METHODS_WITH_BODY:
        ours.append(("Content-Length", str(len(content))))
    return httpcore.Request(
        method,
        httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path),
        headers=[*ours, *headers.items()],
        content=content,
    )


def _answer(coming: _Coming, max_bytes: int, broken_off: HandlerError | None) -> HttpAnswer:
    assert coming.head is not None
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in coming.head.headers]
    truncated = broken_off is not None or len(coming.body) > max_bytes
    return HttpAnswer(coming.head.status, fields, bytes(coming.body[:max_bytes]), truncated, broken_off)


def _check_header(name: str, value: str) -> None:
    lower = name.lower()
    if not re.fullmatch(TOKEN, name) or lower in RESERVED_HEADERS or lower.startswith(RESERVED_PREFIXES):
        raise InvalidJob("header name not allowed")
    if not re.fullmatch(FIELD_VALUE, value):
        raise InvalidJob("header value not allowed")


def _translated(error: Exception) -> HandlerError:
    """The failure of our own, with our text: those of the libraries quote hosts, certificates and bytes."""
    if isinstance(error, httpcore.LocalProtocolError):
        return InvalidJob("the request cannot be sent as HTTP/1.1")
    if isinstance(error.__cause__, ssl.SSLError) or isinstance(error, ssl.SSLError):
        return TransientError("TLS with the target failed")
    if isinstance(error, socket.gaierror):
        return TransientError("the host name does not resolve")
    if isinstance(error, (httpcore.ConnectError, httpcore.ConnectTimeout)):
        return TransientError("no connection to the target")
    if isinstance(error, httpcore.ProtocolError):
        return TransientError("the target did not answer in HTTP")
    return TransientError("the connection to the target broke")
