"""A process: its port, its end with another process, its memory, a garbage collector that is tuned for serving."""

import contextlib
import errno
import fcntl
import gc
import os
import resource
import select
import signal
import socket
import sys
from pathlib import Path

from accepted.errors import ConfigurationError

_REFUSALS = {
    errno.EADDRINUSE: "another process uses it; stop that one, or give another {port}",
    errno.EADDRNOTAVAIL: "this is no address of this machine; give another --host",
    errno.EACCES: "ports below 1024 are for root; give another {port}",
}

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of cgroups v2 and v1, as a container sees its own."""

YOUNG = 50_000
"""New objects before a collection of the young generation. With Python's default of 700, the objects of each request
cause many collections a second."""


def collect_rarely() -> None:
    """Call it before the imports: they make hundreds of thousands of objects and no garbage, and with Python's
    thresholds a tenth of their time goes into looking for some."""
    gc.set_threshold(YOUNG, 20, 50)


def tune_garbage_collector() -> None:
    """Leave what is loaded now out of every collection. Call it once everything is imported and wired.

    The frameworks alone make some 300,000 objects, none of them garbage, and a full collection walks them all.
    """
    gc.collect()
    gc.freeze()
    collect_rarely()


def descriptor_limit() -> int:
    """How many files and connections this process may have open; -1: any number."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_descriptor_limit() -> None:
    """Raise the limit of open files to the hard one.

    Each connection is one, and with the usual limit of 1024 clients that only connect would be all that can.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def lacks_descriptors() -> bool:
    """Whether this process can open no file and accept no connection now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def resident_bytes(pid: int) -> int:
    """The resident memory of a process, as Linux counts it; 0 where that is not known."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def memory_bytes() -> int:
    """The memory of the machine, or of the container that this process runs in if that may use less."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max", or no such cgroup
            sizes.append(int(Path(path).read_text()))
    return min(sizes)


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets that are bound to every address of `host`, and do not listen yet; port 0 takes a free port.

    Called before a process starts anything. Raises `ConfigurationError`, which names host and port, and what to do.
    """
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            bound.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], bound[0].getsockname()[1] if port == 0 and len(bound) > 1 else port, *address[2:]))
    except (OSError, UnicodeError) as error:
        for one in bound:
            one.close()
        raise unusable(host, port, error) from None
    return bound


def url_of(bound: socket.socket) -> str:
    """The address of HTTP at this socket; `--port 0` leaves the port open until it is bound."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def unusable(host: str, port: int, error: Exception, option: str = "--port") -> ConfigurationError:
    """Why nobody can listen on `port` of `host`. `option` is what gave the port."""
    if not isinstance(error, OSError) or isinstance(error, socket.gaierror):
        return ConfigurationError(f"--host {host!r} is neither an address nor a known name")
    why = _REFUSALS.get(error.errno or 0, os.strerror(error.errno or 0)).format(port=option)
    return ConfigurationError(f"cannot listen on port {port} of {host}: {why}")


def end_with(lifeline: int, victim: int) -> None:
    """Have the kernel send SIGKILL to `victim` when the other end of the pipe `lifeline` is closed.

    `victim` is the id of a process, or the negative id of a process group. O_ASYNC sends a signal when the pipe is
    closed, F_SETSIG makes it SIGKILL, F_SETOWN names who gets it (fcntl(2)). PR_SET_PDEATHSIG could kill no group.
    Does nothing outside Linux.
    """
    os.set_inheritable(lifeline, False)
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, victim)
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    closed = select.poll()  # select(2) takes no descriptor above 1023
    closed.register(lifeline, 0)
    if closed.poll(0):
        os._exit(0)
