"""The slots of a worker, and the orphaned handlers that can take them.

An orphaned handler runs on after its attempt has ended: a thread cannot be stopped, and a coroutine can swallow its
CancelledError. Only the end of the process ends it. A worker has room for `MAX_ORPHANS`. Each one more costs a slot
until an orphan returns. When more than `MAX_ORPHANS` have run past their type's timeout, the process has to be
replaced.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import structlog

from accepted.metrics import ORPHANED_HANDLERS

MAX_ORPHANS = 20
"""Each keeps a thread, its stack and what its handler has open. More mean that a handler hangs: the supervisor has to
start a new process."""

log = structlog.get_logger(__name__)


class Slots:
    """Counts free slots: how many more handlers the worker may run at once."""

    def __init__(self, count: int) -> None:
        self.free = count

    def take(self) -> None:
        self.free -= 1

    def give_back(self) -> None:
        self.free += 1


class OrphanedHandlers:
    """Counts the orphans. `too_many` is set when more than `MAX_ORPHANS` have run past their type's timeout."""

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
        """Count `running` until it returns. `kind`: `thread` or `task`. For the event loop.

        It counts as hanging after `allowed` more seconds: a job's timeout may be shorter than its type's.
        """
        loop = asyncio.get_running_loop()
        self._running.add(running)
        gauge = ORPHANED_HANDLERS.labels(kind)
        gauge.inc()
        log.warning("handler_orphaned", kind=kind, where=where, count=len(self._running))
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
        """Call `go_on` now, or, with too many orphans, when the next one returns."""
        if len(self._running) - MAX_ORPHANS > len(self._waiting):
            self._waiting.append(go_on)
        else:
            go_on()

    def _hangs(self, running: "Future[Any] | asyncio.Task[Any]") -> None:
        self._hanging.add(running)
        if len(self._hanging) > MAX_ORPHANS:
            self.too_many.set()
