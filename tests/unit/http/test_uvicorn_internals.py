"""What `DeadlineProtocol` extends of uvicorn: the callbacks of the parser, their order, and the state that they set.

uvicorn has an upper bound in pyproject.toml. Raise it when these pass with the newer version.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from accepted.api.http.server import DeadlineProtocol
from tests.support.waiting import until

REQUEST = b"POST /path?query HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\nhi"

CALLBACKS = ["on_message_begin", "on_url", "on_headers_complete", "on_body", "on_message_complete"]

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Recorder(HttpToolsProtocol):
    """Notes the callbacks of the parser, in order."""

    made: ClassVar["list[Recorder]"] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.seen: list[str] = []
        self.made.append(self)

    def on_message_begin(self) -> None:
        self.seen.append("on_message_begin")
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self.seen.append("on_url")
        super().on_url(url)

    def on_headers_complete(self) -> None:
        self.seen.append("on_headers_complete")
        assert self.parser.get_method() == b"POST"
        super().on_headers_complete()
        assert self.cycle is not None

    def on_body(self, body: bytes) -> None:
        self.seen.append("on_body")
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.seen.append("on_message_complete")
        super().on_message_complete()


async def application(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@asynccontextmanager
async def connected(app: Application = application) -> AsyncIterator[tuple[Recorder, Callable[[], Awaitable[bytes]]]]:
    """A connection to `app`, and what sends `REQUEST` over it and returns the head of the answer."""
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
    config.load()
    Recorder.made.clear()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Recorder(config, ServerState(), {}, _loop=loop), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

    async def ask() -> bytes:
        writer.write(REQUEST)
        return await reader.readuntil(b"\r\n\r\n")

    try:
        await until(lambda: Recorder.made, 10, "the connection is made")
        yield Recorder.made[0], ask
    finally:
        writer.close()
        server.close()


@pytest.mark.parametrize("name", [*CALLBACKS, "connection_made", "connection_lost", "data_received"])
def test_what_we_override_is_there_with_the_same_parameters(name: str) -> None:
    theirs, ours = getattr(HttpToolsProtocol, name), getattr(DeadlineProtocol, name)
    assert [*inspect.signature(ours).parameters] == [*inspect.signature(theirs).parameters]


async def test_a_connection_has_the_state_that_we_read() -> None:
    async with connected() as (protocol, _):
        assert isinstance(protocol.flow, FlowControl)
        assert isinstance(protocol.server_state, ServerState)
        assert protocol.flow.read_paused is False
        assert (protocol.cycle, protocol.headers) == (None, None)
        protocol._unset_keepalive_if_required()


async def test_the_parser_calls_in_order_and_a_cycle_follows_the_head() -> None:
    async with connected() as (protocol, ask):
        assert (await ask()).startswith(STATUS_LINE[204])
        assert protocol.seen == CALLBACKS
        assert protocol.url == b"/path?query"
        assert dict(protocol.headers)[b"host"] == b"here"
        assert (protocol.cycle.response_started, protocol.cycle.response_complete) == (True, True)
        assert (protocol.cycle.more_body, protocol.cycle.keep_alive) == (False, True)
        assert protocol.scope["path"] == "/path"


async def test_the_fields_of_an_answer_begin_with_those_of_the_cycle() -> None:
    """`_CurrentFields` is put there, and is added to when the answer begins."""

    class Fields:
        def __add__(self, fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
            return [(b"x-ours", b"1"), *fields]

    async def replacing(scope: Any, receive: Any, send: Any) -> None:
        Recorder.made[0].cycle.default_headers = Fields()  # type: ignore[assignment]
        await application(scope, receive, send)

    async with connected(replacing) as (_, ask):
        assert b"x-ours: 1" in await ask()
