"""Counts the jobs that ended in this process: `ended()` is what every no-op job of a Python peer does.

The count is in a file of the process, mapped into memory, so a job pays a microsecond and no system call. In the file
are the count (uint64) and the Unix times of the first and the last (doubles), little-endian. `counts.py` in the folder
above reads it; `counting.cjs` writes the same for Node.
"""

import mmap
import os
import struct
import threading
import time
from pathlib import Path

_RECORD = struct.Struct("<Qdd")


class _Count:
    """The file of one process; threads take turns."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        path = Path(os.environ["PEER_COUNTS"]) / str(self.pid)
        path.write_bytes(bytes(_RECORD.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _RECORD.size)
        self._turn = threading.Lock()
        self._count, self._first = 0, time.time()

    def add(self) -> None:
        with self._turn:
            self._count += 1
            _RECORD.pack_into(self._memory, 0, self._count, self._first, time.time())


_turn = threading.Lock()
_count: _Count | None = None


def ended() -> None:
    """One more job has ended now."""
    global _count
    if _count is None or _count.pid != os.getpid():  # a forked process counts by itself
        with _turn:
            if _count is None or _count.pid != os.getpid():
                _count = _Count()
    _count.add()
