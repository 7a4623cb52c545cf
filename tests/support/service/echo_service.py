"""A service with routes of its own, served for real, and the raw sockets to knock with."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from types import SimpleNamespace
from typing import Annotated, Any
from uuid import UUID

import httpx
import uvicorn
from fastapi import APIRouter, FastAPI, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from accepted import errors
from accepted.api.http import problems
from accepted.api.http.body import read_json, read_lines
from accepted.api.http.middleware import HeadAsGet, RequestLog
from accepted.api.http.server import DeadlineProtocol
from accepted.concurrency import TimeSlices
from accepted.domain import json_text

MAX_BODY = 100_000
MAX_LINE = 1000
DEADLINE = 0.6  # seconds, in the place of 30
HEAD = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CANARY = "CanaryValue7"


class ShortDeadline(DeadlineProtocol):
    RECEIVE_DEADLINE = DEADLINE


def build() -> FastAPI:
    """A service with routes of its own."""
    app = FastAPI()
    app.state.accepted = SimpleNamespace(slices=TimeSlices())

    @app.post("/echo", responses=problems.responses_for(errors.TooLarge, errors.InvalidRequest, errors.KeyReused))
    async def echo(request: Request) -> Response:
        return Response(json_text.encode(await read_json(request, MAX_BODY)), media_type="application/json")

    @app.post("/small")
    async def small(request: Request) -> Response:
        return Response(json_text.encode(await read_json(request, 8)), media_type="application/json")

    @app.post("/lines")
    async def lines(request: Request) -> Response:
        return Response(str([len(line) async for some in read_lines(request, MAX_LINE) for line in some]))

    @app.get("/echo")
    async def listed(limit: Annotated[int, Query(ge=1, le=200)] = 50) -> int:
        return limit

    @app.get("/things/{id}")
    async def thing(id: UUID) -> str:
        return str(id)

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError(CANARY)

    @app.get("/raise/{name}")
    async def refuse(name: str) -> None:
        raise getattr(errors, name)(CANARY if name == "LedgerUnavailable" else "")

    @app.get("/slow", operation_id="slow_get")
    @app.post("/slow", operation_id="slow_post")
    async def slow(request: Request) -> Response:
        await pause(DEADLINE * 2.5)
        body = [piece async for piece in request.stream()]
        return Response(str(sum(map(len, body))))

    @app.get("/events")
    async def events() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(5):
                yield b"data: %d\n\n" % number
                await pause(DEADLINE / 2)

        return StreamingResponse(pieces(), media_type="text/event-stream")

    nested = APIRouter()

    @nested.get("/deep/{id}")
    async def deep(request: Request) -> str:
        request.scope["state"]["tenant"] = "acme"
        return "ok"

    app.include_router(nested, prefix="/prefix")
    problems.install(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestLog, access_log=True)
    return app


async def pause(seconds: float) -> None:
    """A handler that takes its time: here slowness is the thing under test."""
    await asyncio.sleep(seconds)


@contextmanager
def serving(protocol: type[DeadlineProtocol]) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(build(), http=protocol, ws="none", log_config=None, access_log=False, timeout_keep_alive=9)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(20)
    listener.close()


@contextmanager
def connected(port: int, sent: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(sent)
        yield sock


def answer(sock: socket.socket, method: str = "POST") -> tuple[int, dict[str, str], bytes]:
    response = HTTPResponse(sock, method=method)
    response.begin()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def ask(port: int, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    with connected(port, sent) as sock:
        return answer(sock)


def post(port: int, body: bytes, **headers: str) -> httpx.Response:
    sent = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"http://127.0.0.1:{port}/echo", content=body, headers=sent, trust_env=False)


def get(port: int, path: str, **options: Any) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, **options)


def check_problem(status: int, headers: Any, body: bytes, instance: str | None = None) -> dict[str, Any]:
    assert headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = json.loads(body)
    assert document["status"] == status
    assert document["type"].startswith("/problems/")
    assert document["title"]
    assert document["detail"]
    assert instance is None or document["instance"] == instance
    assert CANARY.encode() not in body
    return document


def still_open(sock: socket.socket, seconds: float) -> bool:
    """Nothing comes on the connection, not even its end, for that long."""
    sock.settimeout(seconds)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(10)
    return False
