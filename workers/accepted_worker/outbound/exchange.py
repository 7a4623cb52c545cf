"""One HTTP exchange with a target: the network of `accepted_worker.outbound.egress`, made of parts of httpcore.

Each call has a connection of its own. A kept one that the server has just closed would cost a job an attempt.
Nor would it be faster: httpcore's pool walks all its connections for each call, 5 to 7 ms of CPU with 300 in
flight, against 1 ms here, 2 ms with a TLS handshake (measured).
"""

import asyncio
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

import httpcore
import httpx
from httpcore import _synchronization

from accepted.context import HttpAnswer
from accepted.domain.failures import HandlerError, InvalidJob, TargetTimeout, TransientError
from accepted.domain.network.addresses import EgressAllow, IPAddress, unmapped
from accepted.domain.network.urls import FORBIDDEN_ADDRESS, Target
from accepted_worker.outbound.lookup import Lookup

# At each of its locks httpcore asks which library runs it, by `import sniffio`. That is not installed, and looking for
# it on the disk took half of the CPU time of a call.
_synchronization.current_async_library = lambda: "asyncio"

# Addresses of a name that are tried, and seconds for each but the last: a dead IPv6 route costs seconds.
MAX_ADDRESSES_TRIED = 4
CONNECT_TRY_SECONDS = 3.0
# Parsing runs on the event loop: small reads keep a flood of 1-byte chunks from delaying other jobs.
READ_BYTES = 16 * 1024
# Bytes that may arrive for a body of n bytes: headers and 1xx answers, and chunks of a byte (6 bytes on the wire).
HEAD_BYTES = 256 * 1024
CHUNK_OVERHEAD = 8


@dataclass(slots=True)
class _Coming:
    """The part of an answer that has arrived."""

    head: httpcore.Response | None = None
    body: bytearray = field(default_factory=bytearray)


@cache
def trusting_certifi() -> ssl.SSLContext:
    """The bundle of certifi. Cached, because reading the certificates takes 20 ms."""
    return httpx.create_ssl_context(trust_env=False)


def request(method: str, target: Target, fields: list[tuple[str, str]], content: bytes) -> httpcore.Request:
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    return httpcore.Request(method, url, headers=fields, content=content)


async def exchanged(
    line: "GuardedLine", request: httpcore.Request, tls: ssl.SSLContext, seconds: float, max_bytes: int
) -> HttpAnswer:
    """Send `request`, and hang up. Returns and raises as `accepted_worker.outbound.egress.Egress.send` says."""
    coming = _Coming()
    broken_off: HandlerError | None = None
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            await _receive(line, request, tls, max_bytes, coming)
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


async def _receive(
    line: "GuardedLine", request: httpcore.Request, tls: ssl.SSLContext, max_bytes: int, coming: _Coming
) -> None:
    connection = httpcore.AsyncHTTPConnection(request.url.origin, ssl_context=tls, network_backend=line)
    coming.head = await connection.handle_async_request(request)
    async for chunk in coming.head.aiter_stream():
        coming.body += chunk
        if len(coming.body) > max_bytes:
            break
    await coming.head.aclose()


class GuardedLine(httpcore.AsyncNetworkBackend):
    """The network for one call: only the checked addresses of its target."""

    def __init__(self, target: Target, allow: EgressAllow, lookup: Lookup, max_bytes: int) -> None:
        self._target = target
        self._allow = allow
        self._lookup = lookup
        self._budget = HEAD_BYTES + CHUNK_OVERHEAD * max_bytes
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


def _answer(coming: _Coming, max_bytes: int, broken_off: HandlerError | None) -> HttpAnswer:
    assert coming.head is not None
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in coming.head.headers]
    truncated = broken_off is not None or len(coming.body) > max_bytes
    return HttpAnswer(coming.head.status, fields, bytes(coming.body[:max_bytes]), truncated, broken_off)


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
