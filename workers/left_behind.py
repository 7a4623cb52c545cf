"""Handlers that outlive their attempts: a thread that never returns, a coroutine that will not be cancelled.

Nothing can end them but the end of the process. They are counted, and past `MOST` the worker has to be replaced.
"""

import asyncio
from concurrent.futures import Future
from typing import Any

import structlog

from app.metrics import HANDLERS_LEFT_BEHIND

MOST = 20
"""Each holds a thread with its stack, and whatever its handler has hold of. A worker that collects so many runs a
handler that hangs for good; its supervisor gives it a fresh process."""

log = structlog.get_logger(__name__)


class LeftBehind:
    """Keeps account of them. `too_many` is set once there are more than `MOST` at a time."""

    def __init__(self) -> None:
        self._running: set[Future[Any] | asyncio.Task[Any]] = set()
        self.too_many = asyncio.Event()

    def add(self, running: "Future[Any] | asyncio.Task[Any]", kind: str, where: str | None = None) -> None:
        """`running` goes on without its attempt; `kind` is what holds it, `thread` or `task`. On the event loop."""
        self._running.add(running)
        gauge = HANDLERS_LEFT_BEHIND.labels(kind)
        gauge.inc()
        log.warning("handler_left_behind", kind=kind, where=where, count=len(self._running))
        if len(self._running) > MOST:
            self.too_many.set()

        def returned(_: object) -> None:
            self._running.discard(running)
            gauge.dec()

        running.add_done_callback(returned)
