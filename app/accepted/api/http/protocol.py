"""uvicorn's HTTP protocol with the bounds that it lacks: a deadline for requests, and a limit on their heads.

A request, head and body, must have arrived whole within `RECEIVE_DEADLINE` of its first byte (of the opening of
the connection, for the first one): against slowloris, and sockets that connect and stay silent. Time in which
we ourselves do not read, because a handler is slower than its client, does not count. A body that is read by lines
may take any time, as long as each line comes within the deadline (`MORE_TIME`). Answers may take any time: long polls
and event streams are not touched, and an idle connection is closed by uvicorn's keep-alive timeout. What they say
of the time is the time at which they are given.

What can still be answered is answered with a problem. The timer is one for each connection, looked at when it
fires, so a request pays two assignments for all this.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from accepted.api.http.body import MORE_TIME
from accepted.api.http.problems import status_response


class DeadlineProtocol(HttpToolsProtocol):
    """Give it to uvicorn as `http=`, with `ws="none"`. Refuses with 400, 408, 414 and 431, then closes."""

    RECEIVE_DEADLINE = 30.0
    """Seconds; contract section 4."""
    MAX_TARGET = 8192
    """Bytes of path and query: what RFC 9110 section 4.1 advises to support at the least."""
    MAX_HEAD = 32768
    """Bytes of all header fields together: what nginx takes in its default of four 8 KiB buffers."""

    flow: FlowControl
    _arriving_since: float | None = None  # since when a request is incomplete; None between requests
    _in_head = True  # what arrives next is a head, or the rest of one
    _no_body_bytes = 0  # received since something came of it: within a head, trailers or chunk extensions
    _chunk = 0  # received last
    _declining = False  # the head that has just come asks for another protocol
    _refusal = HTTPStatus.BAD_REQUEST  # what a parser error is answered with
    _timer: asyncio.TimerHandle | None = None

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
        if self._arriving_since is None:  # right behind another request
            self._arriving_since = self.loop.time()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Raising makes it a parser error, here as in `_check_head`: the parser then keeps to it."""
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
        self.scope[MORE_TIME] = self._more_time  # type: ignore[literal-required]
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
        """The head without its Upgrade, for a parser that starts over: this one would take the body for another
        protocol's. Java's HttpClient offers HTTP/2 with every request."""
        lines = [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        version = self.parser.get_http_version().encode()
        head = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version), *lines, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"\r\n".join(head)

    def _check_head(self) -> None:
        """The fields of a head that came whole."""
        if self._no_body_bytes + self._chunk <= self.MAX_HEAD:
            return  # so little came that it need not be counted
        if sum(len(name) + len(value) for name, value in self.headers) > self.MAX_HEAD:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError(self._refusal.phrase)

    def _more_time(self) -> None:
        """The deadline begins anew, for what has come makes sense by itself: a line of a body that is read by lines."""
        if self._arriving_since is not None:
            self._arriving_since = self.loop.time()

    def _on_timer(self) -> None:
        """Drops the connection when its request is overdue; looks again when it may be, at the earliest."""
        wait = self.RECEIVE_DEADLINE
        if self._arriving_since is not None and not self._answering() and not self.flow.read_paused:
            wait = self._arriving_since + self.RECEIVE_DEADLINE - self.loop.time()
            if wait <= 0:
                self._drop()
                return
        self._timer = self.loop.call_later(wait, self._on_timer)

    def _answering(self) -> bool:
        """Whether a request that has arrived whole is still being answered."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _drop(self) -> None:
        if self.headers is None or self.transport.get_write_buffer_size():  # nothing to answer, or nobody who reads
            self.transport.abort()
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answers for the application and closes; an answer to an earlier request that is under way goes first."""
        if self.transport.is_closing():
            return
        if self._answering():
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if self._in_head or not self.cycle.response_started:
            target = getattr(self, "url", b"").partition(b"?")[0]
            self.transport.write(_raw(status, target[:256].decode("ascii", "replace")))
        self.transport.close()


class _CurrentFields:
    """The fields that uvicorn adds, as they are when the answer begins: a long poll has not the Date of its request."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def __add__(self, fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return self._state.default_headers + fields


class _PatientFlow(FlowControl):
    """Does not count against the client the time for which we do not read."""

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
    """A whole HTTP/1.1 answer that ends its connection."""
    response: Any = status_response(status, instance)
    fields = [*response.raw_headers, (b"connection", b"close")]
    head = b"".join(b"%b: %b\r\n" % (name, value) for name, value in fields)
    return bytes(STATUS_LINE[status] + head + b"\r\n" + response.body)
