"""Processes of the service that start by a fork instead of by imports, which are most of the CPU time of a start.

A fork server (`fork_server_program.py`) has imported what `accepted api`, `worker`, `scheduler` or another command
imports, and forks for each start. What the process does from then on, how it dies and what it leaves is the same.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.servers.children import spawn
from tests.support.service.fork_server_program import EXIT_CODE, IMPORTED

PROGRAM = Path(__file__).with_name("fork_server_program.py")
ANSWER_WITHIN = 60.0  # seconds; the first answer takes as long as the imports

_used = False
_servers: dict[str, "ForkServer"] = {}
_one_at_a_time = threading.Lock()


def use() -> None:
    """Called by tests. Whatever measures starts or memory does without."""
    global _used
    _used = hasattr(os, "pidfd_open")


def end() -> None:
    """End them all, and whatever they have started."""
    while _servers:
        _servers.popitem()[1].end()


def serves(arguments: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a fork can be this command, with these variables beside the usual ones."""
    starts_others = "--workers" in arguments or "dev" in arguments  # each imports the module that is `__main__`
    return _used and not starts_others and not any(name.startswith("PYTHON") for name in env)  # read as Python starts


def start(command: Sequence[str], env: Mapping[str, str], log: Path, cwd: Path) -> "ForkedProcess":
    """A process of its own for `command`: the path of `accepted` and its arguments."""
    return _fork(command, env, cwd, [Path(os.devnull), log, log])


def run(command: Sequence[str], env: Mapping[str, str], cwd: str, stdin: str, timeout: float) -> tuple[int, str, str]:
    """`command` run to its end: exit code, output and errors."""
    with tempfile.TemporaryDirectory(prefix="accepted-command-") as home:
        files = [Path(home) / name for name in ("in", "out", "err")]
        files[0].write_text(stdin)
        process = _fork(command, env, Path(cwd), files)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return code, files[1].read_text(), files[2].read_text()


def _fork(command: Sequence[str], env: Mapping[str, str], cwd: Path, files: Sequence[Path]) -> "ForkedProcess":
    kind = command[1] if command[1:] and command[1] in IMPORTED else "others"
    with _one_at_a_time:
        if kind not in _servers:
            _servers[kind] = ForkServer(kind, env)
        return _servers[kind].fork(command, env, cwd, files)


class ForkServer:
    """One that has imported what a kind of commands imports. It lives as long as this process."""

    def __init__(self, kind: str, env: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = spawn(
                [sys.executable, PROGRAM, kind, str(theirs.fileno())],
                env={name: value for name, value in env.items() if not name.startswith("ACCEPTED_")},
                log=Path(tempfile.gettempdir()) / f"accepted-fork-servers-{os.getuid()}.log",
                cwd=PROGRAM.parent,
                pass_fds=(theirs.fileno(),),
            )
        ours.settimeout(ANSWER_WITHIN)
        self._socket = ours

    def fork(self, command: Sequence[str], env: Mapping[str, str], cwd: Path, files: Sequence[Path]) -> "ForkedProcess":
        wanted = {"arguments": [*command], "env": {**env}, "directory": str(cwd), "files": [*map(str, files)]}
        self._socket.send(json.dumps(wanted).encode())
        pid, descriptors, _, _ = socket.recv_fds(self._socket, 32, 2)
        assert len(descriptors) == 2, "the fork server has ended"
        return ForkedProcess(int(pid), *descriptors)

    def end(self) -> None:
        self._socket.close()
        self._process.wait(ANSWER_WITHIN)


class ForkedProcess:
    """Its pid and its end, as `subprocess.Popen` tells them of a child of ours."""

    def __init__(self, pid: int, pidfd: int, exit_code: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._pipe = exit_code
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self._code is None and _readable(self._pipe, 0):
            told = os.read(self._pipe, EXIT_CODE.size)
            self._code = EXIT_CODE.unpack(told)[0] if told else -signal.SIGKILL  # it has died with its server
            os.close(self._pipe)
            os.close(self._pidfd)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            _readable(self._pipe, left)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _readable(descriptor: int, seconds: float | None) -> bool:
    waiting = select.poll()  # select(2) takes no descriptor above 1023
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(None if seconds is None else seconds * 1000))
