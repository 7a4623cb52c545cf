"""What the tests of `Egress` call: raw sockets on loopback with a script, resolvers with set answers."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from accepted.context import HttpAnswer
from accepted.domain.network.addresses import EgressAllow
from accepted_worker.outbound.egress import Egress
from accepted_worker.outbound.lookup import Resolve

LOOPBACK = EgressAllow.parse("127.0.0.0/8,::1")
SECONDS = 20.0  # generous: only a test that is about the deadline sets a short one
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
NO_HEADERS: Mapping[str, str] = {}
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """A listening socket with a script: it counts connections, keeps requests, and knows when one is over."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections = 0
        self.requests: list[bytes] = []
        self.asked = asyncio.Event()
        self.hung_up = asyncio.Event()

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context, backlog=1000)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            self.asked.set()
            await self._script(reader, writer)
        self.hung_up.set()
        writer.close()

    def stop(self) -> None:
        self._server.close()


def replies(*parts: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return script


def floods(head: bytes, part: bytes) -> Script:
    """`head`, then `part` for ever."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()

    return script


async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not reader.at_eof():
        writer.write(b"x")
        await writer.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.02)


async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


StartReceiver = Callable[..., Awaitable[Receiver]]


@contextlib.asynccontextmanager
async def an_egress(
    allow: EgressAllow = LOOPBACK, resolve: Resolve | None = None, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[Egress]:
    egress = Egress(allow, resolve=resolve, ssl_context=ssl_context)
    yield egress
    await egress.aclose()


async def call(
    url: str,
    *,
    allow: EgressAllow = LOOPBACK,
    method: str = "GET",
    headers: Mapping[str, str] = NO_HEADERS,
    content: bytes = b"",
    timeout: float = SECONDS,
    max_bytes: int = 65536,
    resolve: Resolve | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> HttpAnswer:
    """One call through an `Egress` of its own."""
    async with an_egress(allow, resolve, ssl_context) as egress:
        return await egress.send(method, url, headers, content, timeout=timeout, max_bytes=max_bytes)


class Answers:
    """A resolver that gives the answers one after the other, the last one for ever, and counts in `asked`."""

    def __init__(self, *answers: list[str]) -> None:
        self._left = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]
