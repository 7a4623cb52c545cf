"""The child's end of the pipe: orders for its main thread, answers for whichever thread of a handler has asked.

One thread reads, and only while somebody waits: what a handler does to its process (closing all files, forking) is not
to meet it. If the worker is gone, or the pipe is, so are we. A fork has a copy of the pipe, and is kept from it: the
worker would take what it says for ours.
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
from accepted_worker.process_pool.messages import LENGTH, Order, Run, Setup, ToChild, ToWorker, encode

NO_TOOLS_IN_A_FORK = "the tools of a handler are for its own process, not for one that it has forked"

_ORDER = 0
"""The main thread waits for orders under this id. Requests have others."""

_decoder: msgspec.json.Decoder[ToChild] = msgspec.json.Decoder(ToChild)


class Pipe:
    """For any thread."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._reader = pipe.makefile("rb")
        self._waiting: dict[int, Future[Any]] = {}
        self._reading = False
        self.reader: threading.Thread | None = None
        self._last_id = _ORDER
        self._lock = threading.RLock()
        self._owner = os.getpid()

    @property
    def ours(self) -> bool:
        """False in a fork of the process that has opened it."""
        return os.getpid() == self._owner

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For who looks at something and sends by it, so that nothing comes between. Raises `InvalidJob` in a fork."""
        if not self.ours:
            raise InvalidJob(NO_TOOLS_IN_A_FORK)
        with self._lock:
            yield

    def send(self, message: ToWorker) -> None:
        """Returns once the kernel has it: if we die on the next line, the worker still gets it."""
        frame = encode(message)
        with self.alone():
            self._pipe.sendall(frame)

    def order(self) -> Order:
        """Wait for what the worker wants next."""
        order: Order = self.expect(_ORDER).result()
        return order

    def new_id(self) -> int:
        """For a request; the worker's answer to one that is forgotten is never taken for another's."""
        with self.alone():
            self._last_id += 1
            return self._last_id

    def expect(self, id: int) -> "Future[Any]":
        """What the worker will say under this id. To be called before it is asked."""
        with self.alone():
            if not self._reading:
                self.reader = threading.Thread(target=self._read, name="pipe", daemon=True)
                self.reader.start()
                self._reading = True
            future = self._waiting[id] = Future()
            return future

    def forget(self, id: int) -> None:
        """Nobody waits for this any more."""
        with self.alone():
            self._waiting.pop(id, None)

    def lose_all(self) -> None:
        """The attempt is over: threads of its handler that still wait for something hear `LeaseLost`."""
        with self.alone():
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(LeaseLost())

    def _read(self) -> None:
        try:
            while self._hand_on(self._next()):
                pass
        except BaseException:  # without it, nobody would be answered
            traceback.print_exc()
            os._exit(1)

    def _next(self) -> ToChild:
        length = self._reader.read(LENGTH.size)
        if not length:
            os._exit(0)
        return _decoder.decode(self._reader.read(LENGTH.unpack(length)[0]))

    def _hand_on(self, message: ToChild) -> bool:
        """Whether there is more to wait for."""
        id = _ORDER if isinstance(message, Setup | Run) else message.id
        with self.alone():
            future = self._waiting.pop(id, None)
            self._reading = bool(self._waiting)
            go_on = self._reading
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(message)
        return go_on
