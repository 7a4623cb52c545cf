"""`ACCEPTED_METRICS_PORT`: `/metrics` and `/healthz` of a process, for whoever can connect to the port.

Threads of its own serve it, so it answers also while the event loop of the process is held up.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler

import structlog
from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from accepted import loops, metrics, process

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = structlog.get_logger(__name__)

OPTION = "ACCEPTED_METRICS_PORT"
EVERYWHERE = "0.0.0.0"
"""Who scrapes a container comes from outside of it."""

AT_ONCE = 8
"""Requests that are answered at once; further ones are hung up on."""

PATIENCE = 5.0
"""Seconds: for a client to send or to take something, and for the event loop to bring the figures up to date."""

Refresh = Callable[[], Awaitable[None]]

_refreshing: dict[Refresh, asyncio.AbstractEventLoop] = {}
_figures = make_wsgi_app(metrics.registry())


def listen(port: int | None) -> None:
    """Serve `port`, if there is one, on all addresses until the process ends.

    Raises `ConfigurationError`, which names the port and why nobody can listen on it.
    """
    if port is None:
        return
    listening = _bound(port)
    os.register_at_fork(after_in_child=listening.close)  # a fork that outlives us would keep the port
    server = _Server(listening)
    threading.Thread(target=server.serve_forever, name="metrics port", daemon=True).start()
    log.info("accepted_metrics", url=process.url_of(listening))


def check(port: int | None) -> None:
    """Raise `ConfigurationError` if `listen` would, now."""
    if port is not None:
        _bound(port).close()


@contextlib.asynccontextmanager
async def refreshed(refresh: Refresh) -> AsyncIterator[None]:
    """Meanwhile `refresh` is called on this event loop before the figures are shown at the port."""
    _refreshing[refresh] = asyncio.get_running_loop()
    try:
        yield
    finally:
        del _refreshing[refresh]


def _bound(port: int) -> socket.socket:
    try:
        return _listening(port)
    except OSError as error:
        raise process.unusable(EVERYWHERE, port, error, OPTION) from None


def _listening(port: int) -> socket.socket:
    """A socket for IPv6 and IPv4, or for IPv4 alone where the machine has no IPv6."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server((EVERYWHERE, port))


def _answer(request: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
    if request["PATH_INFO"] == "/metrics":
        _refresh_all()
        return _figures(request, start)  # type: ignore[no-any-return]
    if request["PATH_INFO"] == "/healthz":
        status, kind, body = _health()
    else:
        status, kind, body = "404 Not Found", "text/plain", b"only /metrics and /healthz are here\n"
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


def _health() -> tuple[str, str, bytes]:
    """503 if a loop of this process has stopped turning: only a new process helps then."""
    if not (stuck := loops.stuck()):
        return "200 OK", "application/json", b'{"status":"ok"}'
    return "503 Service Unavailable", "application/json", json.dumps({"status": "stuck", "loops": stuck}).encode()


def _refresh_all() -> None:
    """Figures that cannot be brought up to date in time are shown as they are."""
    for refresh, loop in tuple(_refreshing.items()):
        done = asyncio.run_coroutine_threadsafe(_called(refresh), loop)
        try:
            done.result(PATIENCE)
        except Exception as error:
            done.cancel()
            log.warning("metrics_not_refreshed", reason=repr(error))


async def _called(refresh: Refresh) -> None:
    await refresh()


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is not worth a line."""


class _Server(ThreadingWSGIServer):
    """On a socket that listens already; wsgiref's own way looks up the name of this machine, which may take long."""

    def __init__(self, listening: socket.socket) -> None:
        address = listening.getsockname()
        super().__init__(address[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_name, self.server_port = address[:2]
        self.setup_environ()
        self.set_app(_answer)
        self._free = threading.BoundedSemaphore(AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up, or says nothing for too long, is not worth a line either."""
        if not isinstance(sys.exception(), OSError):
            log.warning("metrics_unanswered", exc_info=True)
