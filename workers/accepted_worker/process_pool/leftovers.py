"""What a handler has left running when its attempt in a process is over: threads, programs, forks.

They would run on beside the attempts of other jobs, in their memory and with their files. The worker replaces a child
that has any, which kills what is in its process group.
"""

import os
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 0.1
"""For what has been told to end to be gone. Only an attempt that leaves something waits for it."""

LOOK_SECONDS = 0.005


def anything_left(ours: Collection[threading.Thread | None]) -> bool:
    """Whether any thread runs that is not one of `ours`, or any process that this one has started.

    A process is found if it is a child or in our process group: not the fork of a program that has left both behind.
    Elsewhere than on Linux no process is found.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    while any(thread not in ours for thread in threading.enumerate()) or any(map(_runs, _processes())):
        if time.monotonic() > deadline:
            return True
        time.sleep(LOOK_SECONDS)
    return False


def _processes() -> set[int]:
    """Those in our group, at one system call a process of the machine (0.2 ms for 150), and our children in others."""
    group = os.getpgrp()
    return ({pid for pid in _numbers_in("/proc") if _group_of(pid) == group} | _children()) - {os.getpid()}


def _numbers_in(directory: str) -> list[int]:
    with suppress(OSError):
        return [int(name) for name in os.listdir(directory) if name.isdigit()]
    return []


def _group_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.getpgid(pid)
    return None


def _children() -> set[int]:
    found: set[int] = set()
    for thread in _numbers_in("/proc/self/task"):
        with suppress(OSError):
            found.update(map(int, Path(f"/proc/self/task/{thread}/children").read_text().split()))
    return found


def _runs(pid: int) -> bool:
    """Not if it has ended, and nobody has asked how."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
