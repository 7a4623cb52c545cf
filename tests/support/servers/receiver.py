"""An HTTP server in the test's own event loop that remembers what it was sent and answers as it is told.

It plays the receiver of webhooks and the target of `http.request`, and can misbehave: answer late, hang up
without an answer, or send bytes that are no HTTP.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import h11

from tests.support.servers.ports import free_port
from tests.support.waiting import until


@dataclass(frozen=True)
class Request:
    """One request as it came in: header names in lower case, `path` with its query, `at` by time.time()."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Answer:
    """What goes back, `after` seconds later; `raw` bytes instead, and then the connection is closed."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: float = 0.0
    raw: bytes | None = None


HANG_UP = Answer(raw=b"")

Respond = Callable[[Request], Answer | Awaitable[Answer]]


class Receiver:
    """`async with Receiver() as receiver:`; `receiver.respond` may be replaced at any time."""

    def __init__(self, respond: Respond | None = None) -> None:
        self.respond: Respond = respond or (lambda _: Answer())
        self.requests: list[Request] = []
        self.port = free_port()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> "Receiver":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Hang up on everybody; the address then refuses connections."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_for(self, wanted: int | Callable[[list[Request]], bool], timeout: float = 10.0) -> list[Request]:
        """Wait for a number of requests, or for a predicate over all of them; all requests so far."""

        def enough() -> bool:
            return len(self.requests) >= wanted if isinstance(wanted, int) else wanted(self.requests)

        def seen() -> str:
            return f"requests {wanted}; got {[(r.method, r.path) for r in self.requests]}"

        await until(enough, timeout, seen)
        return list(self.requests)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._exchange(h11.Connection(h11.SERVER), reader, writer):
                pass
        except (OSError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """One request and its answer; whether the connection stays open for another."""
        request = await _read(connection, reader)
        if request is None:
            return False
        self.requests.append(request)
        said = self.respond(request)
        answer = await said if inspect.isawaitable(said) else said
        await asyncio.sleep(answer.after)
        if answer.raw is not None:
            writer.write(answer.raw)
            return False
        writer.write(_encode(connection, request, answer))
        await writer.drain()
        # Pipelined bytes would be lost with the old connection object; no client of ours pipelines.
        return connection.our_state is h11.DONE


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
            return Request(head.method.decode(), head.target.decode(), headers, bytes(body))
        else:
            return None


def _encode(connection: h11.Connection, request: Request, answer: Answer) -> bytes:
    headers = {"content-length": str(len(answer.body))} | {k.lower(): v for k, v in answer.headers.items()}
    head = h11.Response(status_code=answer.status, headers=list(headers.items()), reason=_reason(answer.status))
    body = b"" if request.method == "HEAD" else answer.body
    return b"".join(connection.send(part) or b"" for part in (head, h11.Data(data=body), h11.EndOfMessage()))


def _reason(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode() if status in HTTPStatus._value2member_map_ else b""
