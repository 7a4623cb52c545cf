"""What handlers start in our processes: forks, programs and threads.

A fork is a copy of its process. It must not take that process's signals, nor keep its pipes open. A fork of the worker
itself, by a handler in a thread or on the event loop, has copies of its connections too: it leaves them to the worker,
and ends with it, or the ledger and the broker would take the worker for alive. And what an attempt in a child process
leaves running would run on beside other jobs, in their memory and with their files, so the worker replaces such a
child, which kills its process group.
"""

import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from accepted import process

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

GRACE_SECONDS = 0.1
"""Seconds for threads and processes to end by themselves. Only an attempt that leaves some running waits."""

POLL_SECONDS = 0.005

_own_fds: set[int] = set()


def isolate_forks() -> None:
    """From now on forks of this process handle stop signals themselves, and close its own descriptors. Call it once."""
    os.register_at_fork(before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_become_independent)


def end_forks_with_this_process() -> None:
    """From now on forks of this process close its connections, and the kernel kills them when it ends. Call it once.

    A connection belongs to the process that has opened it, also one of a handler's own. Does nothing outside Linux.
    """
    end_of_life, lifeline = os.pipe()
    own(lifeline)
    os.register_at_fork(after_in_child=lambda: _end_with_parent(end_of_life))


def own(fd: int) -> None:
    """While `fd` is open, another process takes this one for alive: forks must close it."""
    _own_fds.add(fd)


def close(fd: int) -> None:
    """Close a descriptor given to `own`."""
    _own_fds.discard(fd)
    os.close(fd)


def anything_left_running(known: Collection[threading.Thread | None]) -> bool:
    """Whether a thread that is not `known` runs, or a process that this one has started.

    Finds processes that are our children or in our process group; a fork of a program that has left both is not found.
    Outside Linux it finds no process.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    while any(thread not in known for thread in threading.enumerate()) or any(map(_is_running, _processes())):
        if time.monotonic() > deadline:
            return True
        time.sleep(POLL_SECONDS)
    return False


def _block_signals() -> None:
    """A stop signal that reaches a fork before its handlers are set would be lost, and `multiprocessing` sends one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _become_independent() -> None:
    signal.set_wakeup_fd(-1)  # otherwise a signal to the fork wakes the event loop of the process it was copied from
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    for fd in _own_fds:
        os.close(fd)
    _unblock_signals()


def _end_with_parent(end_of_life: int) -> None:
    _leave_connections()
    with suppress(OSError):  # outside Linux
        # Whom the kernel kills is a property of an open file, so each fork opens the pipe for itself.
        process.end_with(os.open(f"/proc/self/fd/{end_of_life}", os.O_RDONLY | os.O_NONBLOCK), os.getpid())


def _leave_connections() -> None:
    """Put /dev/null in the place of each connection: its number is not free for another file of the same fork."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in _numbers_in("/proc/self/fd"):
            if _is_connection(fd):
                os.dup2(nowhere, fd, inheritable=False)
        os.close(nowhere)


def _is_connection(fd: int) -> bool:
    """Whether `fd` is a socket with a peer that has a name: no socket pair, as `multiprocessing` has, and no port."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        with socket.socket(fileno=os.dup(fd)) as found:
            return bool(found.getpeername())
    except OSError:
        return False


def _processes() -> set[int]:
    """The processes in our group, at one system call a process of the machine (0.2 ms for 150), and our children."""
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


def _is_running(pid: int) -> bool:
    """False for one that has ended, even if nobody has collected its exit status."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
