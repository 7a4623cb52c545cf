"""The memory that the children of one worker may take all together for what they decode.

The size of the budget is known to each child, and a file that they share says what is taken of it: each unit is a byte
that may be locked (fcntl(2), POSIX locks). A child locks as many as it needs in a row, and waits while there are not
enough. The kernel unlocks those of a child that dies, so nothing is ever lost. Children wait in turn: one that needs
much is not overtaken by those that need little.

While a child holds its share it can allocate no more than that, whatever it decodes: what goes past it is a
MemoryError.
"""

import fcntl
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accepted.domain.failures import InvalidJob
from accepted.process import memory_bytes

UNIT = 16 * 2**20
"""Bytes that one lock stands for."""

POLL_SECONDS = 0.05
"""Between two looks for enough room. What holds it decodes for a second or so."""

SLACK = 64 * 2**20
"""Bytes that a child may allocate beside its share, for texts and profiles in the file, and for the interpreter."""

USUAL_SHARE, USUAL_MOST = 0.25, 768 * 2**20
"""Of the memory of the machine or container, and bytes."""

_TURN = 2**32
"""The byte that is locked by the child whose turn it is to look for room. The units are below it."""

_adopted: tuple[int, int] | None = None
"""In a child: the file, and the size of the budget in bytes."""


def usual_size() -> int:
    """The budget of a worker for which none is set."""
    return max(UNIT, min(USUAL_MOST, int(memory_bytes() * USUAL_SHARE)))


def create() -> int:
    """A new budget, as a descriptor that children inherit."""
    if sys.platform == "linux":
        return os.memfd_create("accepted-memory-budget")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def adopt(fd: int, size: int) -> None:
    """In a child: from now on `reserved` takes from the budget behind `fd`, which has `size` bytes in all."""
    global _adopted
    os.set_inheritable(fd, False)
    _adopted = fd, size


@contextmanager
def reserved(size: int) -> Iterator[None]:
    """Within this block, `size` bytes of the budget are ours. Waits until they are free.

    Raises `InvalidJob` if the whole budget is smaller. Outside of a child it does nothing.
    """
    if _adopted is None:
        yield
        return
    fd, all_of_it = _adopted
    if size > all_of_it:
        raise InvalidJob(
            f"it takes {size >> 20} MiB to decode, and this worker has {all_of_it >> 20} MiB for that "
            "(ACCEPTED_PICTURE_MEMORY)"
        )
    units = -(-size // UNIT)
    start = _lock(fd, units, max(units, all_of_it // UNIT))
    try:
        with _limited_to(size + SLACK):
            yield
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN, units, start)


def _lock(fd: int, units: int, of: int) -> int:
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, _TURN)
    try:
        while True:
            for start in range(of - units + 1):
                try:
                    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, units, start)
                except OSError:  # some of them are taken
                    continue
                return start
            time.sleep(POLL_SECONDS)
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, _TURN)


@contextmanager
def _limited_to(more: int) -> Iterator[None]:
    """Allocate at most `more` bytes more than now. Outside Linux, as much as before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    used = _data_bytes()
    if used is not None:
        limit = used + more
        resource.setrlimit(resource.RLIMIT_DATA, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int | None:
    """What RLIMIT_DATA counts (proc(5): VmData); None where that is not known."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:")), None)
