"""The program of a fork server: it imports what a command imports, then forks a process for each start of it.

    python fork_server_program.py COMMAND DESCRIPTOR

The socket DESCRIPTOR brings one request a message: JSON with `arguments`, `env`, `directory` and `files`, the paths of
its standard input, output and error. The answer is the child's pid, with two descriptors: a pidfd, and a pipe that
brings the child's exit code. The child is what `accepted …` would be: a session, an environment, a directory and files
of its own, and the same `main`.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import secrets
import select
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

IMPORTED = {
    "api": ("accepted.api.app", "accepted.api.http.exposure", "accepted.api.http.server"),
    "worker": ("accepted_worker.worker_process",),
    "scheduler": ("accepted_worker.scheduler_process",),
    "others": ("accepted.client.blocking_driver", "accepted.services.keys", "accepted.storage.db.migrate"),
}
"""What a command imports once it is called, beside the modules of `EVERYWHERE`. The others are those that end."""

EVERYWHERE = ("accepted.cli.main", "accepted.settings", "accepted.logs", "accepted.metrics_port", "asyncpg", "uvloop")

MAX_REQUEST = 2**17
"""Bytes: an environment may be large."""

EXIT_CODE = struct.Struct("i")
PR_SET_PDEATHSIG = 1  # prctl(2)


def main(command: str, descriptor: int) -> None:
    """Serve until the other end is closed. Returns in each child, which then is the command."""
    sys.path[0] = str(Path(sys.executable).parent)  # as it is in `.venv/bin/accepted`
    for name in (*EVERYWHERE, *IMPORTED[command]):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, the pages of all that is imported
    requests = socket.socket(fileno=descriptor)
    libc, server = ctypes.CDLL(None), os.getpid()
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    exits: dict[int, tuple[int, int]] = {}
    while True:
        for ready, _ in poll.poll():
            if ready != descriptor:
                poll.unregister(ready)
                _tell(ready, *exits.pop(ready))
                continue
            wanted = requests.recv(MAX_REQUEST)
            if not wanted:
                os._exit(0)
            if (pid := os.fork()) == 0:
                _close(requests, exits)
                _become(json.loads(wanted), libc, server)
                return
            pidfd = os.pidfd_open(pid)
            theirs, ours = os.pipe()
            exits[pidfd] = pid, ours
            poll.register(pidfd, select.POLLIN)
            socket.send_fds(requests, [str(pid).encode()], [pidfd, theirs])
            os.close(theirs)


def _tell(pidfd: int, pid: int, pipe: int) -> None:
    _, status = os.waitpid(pid, 0)
    os.close(pidfd)
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(pipe, EXIT_CODE.pack(os.waitstatus_to_exitcode(status)))
    os.close(pipe)


def _close(requests: socket.socket, exits: Mapping[int, tuple[int, int]]) -> None:
    requests.close()
    for pidfd, (_, pipe) in exits.items():
        os.close(pidfd)
        os.close(pipe)


def _become(wanted: Mapping[str, Any], libc: ctypes.CDLL, server: int) -> None:
    """Take on what was asked for, and what differs between processes that import the modules themselves."""
    os.setsid()
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != server:
        os._exit(1)
    for number, path in enumerate(wanted["files"]):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(wanted["directory"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    sys.argv = wanted["arguments"]
    from accepted import correlation

    correlation._prefix = secrets.token_hex(8)  # of the ids of requests, which no two processes share


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    sys.exit(sys.modules["accepted.cli.main"].main())
