"""Serving HTTP with uvicorn, with the limits that it lacks, and a clean stop.

`DeadlineProtocol` drops a request whose head and body have not arrived within `RECEIVE_DEADLINE` of its first byte (of
the opening of the connection, for the first request). This stops slowloris and sockets that connect and stay silent.
Time in which we do not read, because a handler is slower than its client, does not count. An NDJSON body has the
deadline for each line (`MORE_TIME`), and `LONGEST_BODY` in all. Answers may take any time: long polls and event streams
are not affected, and uvicorn's keep-alive timeout closes idle connections.

A refused request is answered with a problem where that is possible. Each connection has one timer, which computes the
time left only when it fires, so a request costs three assignments.
"""

import asyncio
import math
import signal
import socket
from http import HTTPStatus
from types import FrameType
from typing import Any

import httptools
import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from accepted import correlation, process
from accepted.api.http.body import MORE_TIME
from accepted.api.http.exposure import BOUND, is_host, is_own_target
from accepted.api.http.problems import status_response
from accepted.domain.ids import as_sent
from accepted.settings import Settings

log = structlog.get_logger(__name__)

BACKLOG = 2048
"""Connections that wait to be accepted."""


class Server(uvicorn.Server):
    """A clean stop exits 0; uvicorn's own server raises the signal again when it has stopped.

    `event` is logged with the URL once connections to it are accepted.
    """

    def __init__(self, config: uvicorn.Config, event: str) -> None:
        super().__init__(config)
        self._event = event

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Of two processes that are bound to a port, only the first can listen."""
        try:
            await super().startup(sockets)
        except OSError as error:
            raise process.unusable(self.config.host, self.config.port, error) from error
        if self.started and not self.should_exit:
            log.info(self._event, url=process.url_of(self.servers[0].sockets[0]), open_files=process.descriptor_limit())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say what is waited for: requests that are being answered, streams and long polls until they have ended."""
        seconds = self.config.timeout_graceful_shutdown
        log.info("api_stopping", requests=len(self.server_state.tasks), seconds=seconds)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def config(app: "FastAPI | str", settings: Settings, host: str, port: int, workers: int = 1) -> uvicorn.Config:
    """uvicorn's configuration for our application."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http=DeadlineProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(settings.keep_alive),
        timeout_graceful_shutdown=max(int(settings.shutdown_grace) - 1, 1),
    )


class DeadlineProtocol(HttpToolsProtocol):
    """Pass it to uvicorn as `http=`, with `ws="none"`. Refuses with 400, 408, 414 and 431, then closes."""

    RECEIVE_DEADLINE = 30.0
    """Seconds; contract section 4."""
    LONGEST_BODY = 3600.0
    """Seconds for the lines of one NDJSON body, which takes disk space meanwhile. A million lines are 278 a second."""
    MAX_TARGET = 8192
    """Bytes of path and query; RFC 9110 section 4.1 advises to support at least 8000."""
    MAX_HEAD = 32768
    """Bytes of all header fields together; nginx's default of four 8 KiB buffers."""

    flow: FlowControl
    _arriving_since: float | None = None  # since when the current request is incomplete; None between requests
    _lines_since: float | None = None  # when the first line of the current body was complete
    _in_head = True  # the next bytes belong to a head
    _no_body_bytes = 0  # received so far outside of a body: in heads, trailers or chunk extensions
    _chunk = 0  # bytes received last
    _declining = False  # the current head asks for another protocol
    _refusal = HTTPStatus.BAD_REQUEST  # the answer to a parser error
    _timer: asyncio.TimerHandle | None = None
    _host: bytes | None = None  # of the request before: a client sends the same one each time

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _PatientFlow(transport, self)
        self._current = _CurrentFields(self.server_state)
        self._arriving_since = self.loop.time()
        self._timer = self.loop.call_later(self.RECEIVE_DEADLINE, self._on_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._arriving_since is None:
            self._arriving_since = self.loop.time()
        self._chunk = len(data)
        self._no_body_bytes += self._chunk
        self._parse(data)
        if self._no_body_bytes > self.MAX_HEAD + self.MAX_TARGET:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        if self._arriving_since is None:  # pipelined behind another request
            self._arriving_since = self.loop.time()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Raises to make it a parser error, as `_check_head` does: then the parser takes no more input."""
        super().on_url(url)
        if len(self.url) > self.MAX_TARGET:
            self._refusal = HTTPStatus.REQUEST_URI_TOO_LONG
            raise ValueError(self._refusal.phrase)

    def on_headers_complete(self) -> None:
        self._check_head()
        self._no_body_bytes = 0
        self._declining = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._declining:
            return
        super().on_headers_complete()
        self.cycle.default_headers = self._current  # type: ignore[assignment]
        self.scope[MORE_TIME] = self._restart_deadline  # type: ignore[literal-required]
        self._lines_since = None
        self.scope[BOUND] = self.config.host  # type: ignore[literal-required]
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        self._no_body_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._declining:
            return
        self._no_body_bytes = 0
        self._arriving_since = None
        self._in_head = True
        super().on_message_complete()
        self.url = b""

    def _parse(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._declined_head() + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._refuse(self._refusal)
                return

    def _declined_head(self) -> bytes:
        """The head without its Upgrade field, for a new parser.

        The old parser would read the body as the other protocol. Java's HttpClient offers HTTP/2 with every request.
        """
        lines = [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        version = self.parser.get_http_version().encode()
        head = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version), *lines, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"\r\n".join(head)

    def _check_head(self) -> None:
        """Raise unless there is one Host (RFC 9112 section 3.2), and the fields are within their limit."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) != 1 or (hosts[0] != self._host and not is_host(hosts[0])):
            raise ValueError("Host")
        self._host = hosts[0]
        if not is_own_target(self.url, hosts[0]):
            raise ValueError("the target names another host")
        if self._no_body_bytes + self._chunk <= self.MAX_HEAD:
            return  # fewer bytes arrived than the limit, so the fields need not be counted
        if sum(len(name) + len(value) for name, value in self.headers) > self.MAX_HEAD:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError(self._refusal.phrase)

    def _restart_deadline(self) -> None:
        """The request has the full deadline again. Called for each line of an NDJSON body."""
        now = self.loop.time()
        if self._lines_since is None:
            self._lines_since = now
        if self._arriving_since is not None and now < self._lines_since + self.LONGEST_BODY:
            self._arriving_since = now

    def _on_timer(self) -> None:
        """Drop the connection if its request is overdue; else fire again when it can be."""
        wait = self.RECEIVE_DEADLINE
        if self._arriving_since is not None and not self._answering() and not self.flow.read_paused:
            wait = self._arriving_since + self.RECEIVE_DEADLINE - self.loop.time()
            if wait <= 0:
                self._drop()
                return
        self._timer = self.loop.call_later(wait, self._on_timer)

    def _answering(self) -> bool:
        """Whether a request that has arrived completely is being answered."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _drop(self) -> None:
        if self.headers is None or self.transport.get_write_buffer_size():  # no request to answer, or the peer is stuck
            self.transport.abort()
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer in place of the application, and close. An answer to an earlier request is completed first."""
        if self.transport.is_closing():
            return
        if self._answering():
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if self._in_head or not self.cycle.response_started:
            target = getattr(self, "url", b"").partition(b"?")[0]
            raw = _raw(status, as_sent(target[:256].decode("ascii", "replace")))
            self.transport.write(_head(raw) if self.parser.get_method() == b"HEAD" else raw)
        self.transport.close()


class _CurrentFields:
    """uvicorn's default fields as of the beginning of the answer.

    uvicorn takes them as the request arrives, so the Date of a long poll would be up to a minute old.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def __add__(self, fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return self._state.default_headers + fields


class _PatientFlow(FlowControl):
    """Extends the deadline of a request by the time for which we do not read."""

    def __init__(self, transport: asyncio.Transport, protocol: DeadlineProtocol) -> None:
        super().__init__(transport)
        self._protocol = protocol
        self._paused_at = 0.0

    def pause_reading(self) -> None:
        if not self.read_paused:
            self._paused_at = self._protocol.loop.time()
        super().pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused and self._protocol._arriving_since is not None:
            self._protocol._arriving_since += self._protocol.loop.time() - self._paused_at
        super().resume_reading()


def _raw(status: HTTPStatus, instance: str) -> bytes:
    """A complete HTTP/1.1 answer that closes its connection."""
    response: Any = status_response(status, instance)
    request_id = correlation.new_request_id().encode()
    fields = [*response.raw_headers, (correlation.HEADER, request_id), (b"connection", b"close")]
    head = b"".join(b"%b: %b\r\n" % (name, value) for name, value in fields)
    return bytes(STATUS_LINE[status] + head + b"\r\n" + response.body)


def _head(answer: bytes) -> bytes:
    """The answer without its body, as HEAD has it."""
    return answer[: answer.index(b"\r\n\r\n") + 4]
