"""The child's end of the pipe: orders for its main thread, answers for the handler's threads that sent a request.

One thread reads, and only while another waits, because a handler may close all files or fork. When the worker or the
pipe is gone, the process ends. A fork has a copy of the pipe but cannot use it: the worker would take its messages for
those of the child.
"""

import os
import socket
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import msgspec

from accepted.domain.failures import InvalidJob, LeaseLost
from accepted_worker.process_pool.messages import (
    LENGTH,
    EndAlone,
    Order,
    RunAlone,
    RunAttempt,
    Setup,
    ToChild,
    ToWorker,
    encode,
)

NO_TOOLS_IN_A_FORK = "the tools of a handler are for its own process, not for one that it has forked"

ORDERS = 0
"""The id under which the main thread waits for orders. Requests have other ids."""

_decoder: msgspec.json.Decoder[ToChild] = msgspec.json.Decoder(ToChild)


class Pipe:
    """For any thread."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._file = pipe.makefile("rb")
        self._waiting: dict[int, Future[Any]] = {}
        self._reading = False
        self.reader: threading.Thread | None = None
        self._last_id = ORDERS
        self._lock = threading.RLock()
        self._owner = os.getpid()

    @property
    def usable(self) -> bool:
        """False in a fork of the process that opened the pipe."""
        return os.getpid() == self._owner

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nothing else is sent or received within this block. Raises `InvalidJob` in a fork."""
        if not self.usable:
            raise InvalidJob(NO_TOOLS_IN_A_FORK)
        with self._lock:
            yield

    def send(self, message: ToWorker) -> None:
        """Returns when the kernel has the message: the worker gets it even if this process dies on the next line."""
        frame = encode(message)
        with self.locked():
            self._pipe.sendall(frame)

    def next_order(self) -> Order:
        """Wait for the worker's next order."""
        order: Order = self.expect(ORDERS).result()
        return order

    def new_id(self) -> int:
        """An id for a request. Ids are never used again, so a late answer is never taken for another's."""
        with self.locked():
            self._last_id += 1
            return self._last_id

    def expect(self, id: int) -> "Future[Any]":
        """The answer with this id. Call it before the request is sent."""
        with self.locked():
            if not self._reading:
                self.reader = threading.Thread(target=self._read, name="pipe", daemon=True)
                self.reader.start()
                self._reading = True
            future = self._waiting[id] = Future()
            return future

    def forget(self, id: int) -> None:
        """Nothing waits for this answer any more."""
        with self.locked():
            self._waiting.pop(id, None)

    def fail_all(self) -> None:
        """The attempt has ended: calls that threads of its handler still wait for raise `LeaseLost`."""
        with self.locked():
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(LeaseLost())

    def _read(self) -> None:
        try:
            while self._pass_on(self._next()):
                pass
        except BaseException:  # without this thread no call would ever be answered
            traceback.print_exc()
            os._exit(1)

    def _next(self) -> ToChild:
        length = self._file.read(LENGTH.size)
        if not length:
            os._exit(0)
        return _decoder.decode(self._file.read(LENGTH.unpack(length)[0]))

    def _pass_on(self, message: ToChild) -> bool:
        """Give a message to what waits for it. Returns whether anything else waits."""
        id = ORDERS if isinstance(message, Setup | RunAttempt | RunAlone | EndAlone) else message.id
        with self.locked():
            future = self._waiting.pop(id, None)
            self._reading = bool(self._waiting)
            go_on = self._reading
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(message)
        return go_on
