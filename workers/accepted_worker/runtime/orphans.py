"""Handlers that outlive their attempts: a thread that does not return, a coroutine that will not be cancelled.

Nothing can end them but themselves and the end of the process. They are counted: there is room for `MOST`, beyond
which each costs its worker a slot until one returns, and when more than `MOST` have had all the time that their type
gives them, the worker has to be replaced.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import structlog

from accepted.metrics import HANDLERS_LEFT_BEHIND

MOST = 20
"""Each holds a thread with its stack, and whatever its handler has hold of. A worker that collects so many for good
runs a handler that hangs; its supervisor gives it a fresh process."""

log = structlog.get_logger(__name__)


class LeftBehind:
    """Keeps account of them. `too_many` is set once more than `MOST` at a time have outlived their type's timeout."""

    def __init__(self) -> None:
        self._running: set[Future[Any] | asyncio.Task[Any]] = set()
        self._hanging: set[Future[Any] | asyncio.Task[Any]] = set()
        self._waiting: deque[Callable[[], None]] = deque()
        self.too_many = asyncio.Event()

    def add(
        self,
        running: "Future[Any] | asyncio.Task[Any]",
        kind: str,
        where: str | None = None,
        allowed: float = 0.0,
    ) -> None:
        """`running` goes on without its attempt; `kind` is what holds it, `thread` or `task`. On the event loop.

        A job may ask for less time than its type gives: for `allowed` more seconds it is not taken to hang.
        """
        loop = asyncio.get_running_loop()
        self._running.add(running)
        gauge = HANDLERS_LEFT_BEHIND.labels(kind)
        gauge.inc()
        log.warning("handler_left_behind", kind=kind, where=where, count=len(self._running))
        hangs = loop.call_later(max(allowed, 0.0), self._hangs, running)

        def returned(_: object) -> None:
            hangs.cancel()
            self._running.discard(running)
            self._hanging.discard(running)
            gauge.dec()
            if self._waiting:
                self._waiting.popleft()()

        asyncio.wrap_future(running).add_done_callback(returned)

    def when_there_is_room(self, go_on: Callable[[], None]) -> None:
        """Calls `go_on`: at once, or, when there are too many to run another handler, as soon as one returns."""
        if len(self._running) - MOST > len(self._waiting):
            self._waiting.append(go_on)
        else:
            go_on()

    def _hangs(self, running: "Future[Any] | asyncio.Task[Any]") -> None:
        self._hanging.add(running)
        if len(self._hanging) > MOST:
            self.too_many.set()
