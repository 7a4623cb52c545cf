"""Child processes that die with the test run, whatever way it ends.

The kernel sends a child its PR_SET_PDEATHSIG when the *thread* that started it ends. So all are started by
one thread that lives as long as the interpreter; a worker thread of some event loop would take them with it.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil

PR_SET_PDEATHSIG = 1  # prctl(2)


class OwnProcess(Protocol):
    """What `subprocess.Popen` has, and a process that somebody else has forked for us has too."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    log: Path,
    cwd: Path,
    user: str | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
    pass_fds: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start `command` in a session of its own, its output appended to `log`, as `user` where one is named."""

    def start() -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            return subprocess.Popen(
                [str(part) for part in command],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                pass_fds=pass_fds,
                preexec_fn=_die_with_parent(death_signal),
            )

    return _spawner.submit(start).result()


def kill_tree(process: OwnProcess) -> None:
    """SIGKILL a process and all its descendants, as a machine that loses its power would; then reap it.

    The process is stopped first, so that it can neither notice that its children die nor start new ones.
    """
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGSTOP)
    family = descendants(process.pid)
    kill_all(family)
    process.kill()
    process.wait()
    wait_dead(family)


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_all(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def wait_dead(processes: Iterable[psutil.Process], timeout: float = 10.0) -> None:
    """Wait until none of them runs code any more; whether its new parent has reaped it does not matter."""
    deadline = time.monotonic() + timeout
    for process in processes:
        while _alive(process):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{process} survived SIGKILL for {timeout:g} s")
            time.sleep(0.005)


def tail(path: Path, lines: int = 200) -> str:
    """The end of a log file, for a failure message."""
    if not path.exists():
        return "(no log)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _die_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: the child may only make the call
    parent = os.getpid()

    def arm() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:
            os._exit(1)

    return arm
