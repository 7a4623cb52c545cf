"""Where the lines of a log go: a descriptor that may fail or block, and must neither fail nor block the process."""

import asyncio
import io
import os
import stat
from contextlib import suppress
from typing import Any, BinaryIO


class Unfailing(io.RawIOBase):
    """Writes to a file descriptor, and ignores errors. A pipe is set to non-blocking."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.set_blocking(descriptor, False)

    def writable(self) -> bool:
        return True

    def write(self, line: Any) -> int:
        with suppress(OSError):
            os.write(self._descriptor, line)
        return len(line)


class Lines:
    """Flushes lines once a turn of the event loop of their own thread, or at once if none runs there."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._flushing: set[asyncio.AbstractEventLoop] = set()

    def msg(self, line: bytes) -> None:
        self._stream.write(line + b"\n")
        try:
            if (loop := asyncio.get_running_loop()) not in self._flushing:
                loop.call_soon(self.flush, loop)
                self._flushing.add(loop)
        except RuntimeError:
            self._stream.flush()

    debug = info = warning = error = critical = exception = msg

    def flush(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._flushing -= {loop}
        self._stream.flush()
