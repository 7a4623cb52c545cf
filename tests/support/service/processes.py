"""The service's own processes, as real children: `.venv/bin/accepted` with an environment of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import httpx

from tests.support.loopback import TRUSTS_NOBODY
from tests.support.servers.children import OwnProcess, kill_tree, spawn, tail
from tests.support.service import fork_server
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[3]
SOURCES = os.pathsep.join(map(str, (ROOT, ROOT / "app", ROOT / "workers")))
"""This tree for PYTHONPATH: tests and both source roots, before the editable install of another tree."""

ACCEPTED = Path(sys.executable).with_name("accepted")
BYTECODE = Path(tempfile.gettempdir()) / f"accepted-test-bytecode-{os.getuid()}"  # compiling costs 3 s of CPU a start
READY_WITHIN = 30.0  # seconds; an API process takes 1 to 2 on an idle machine

Ready = Callable[["Service"], bool | Awaitable[bool]]


class Service:
    """One `accepted …` process.

    It sees the caller's environment without any `ACCEPTED_…`, plus `env`, and an empty working directory, so
    that nobody's `.env` file has a say. It runs in a process group of its own and dies with the test run.
    `program` and `directory` put another installation and another working directory in their place.

    An API, a worker or a scheduler of this tree is a fork of a process that has done its imports, if it may be.
    """

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        name: str = "",
        program: Path = ACCEPTED,
        directory: Path | None = None,
        forked: bool = True,
    ) -> None:
        self.arguments = arguments
        self.name = name or " ".join(arguments)
        self._env = clean_environment() | dict(env or {})
        self._forked = forked and program == ACCEPTED and fork_server.serves(arguments, env or {})
        self._home = Path(tempfile.mkdtemp(prefix="accepted-service-"))
        self._directory = directory or self._home
        self._program = program
        self._log = self._home / "log"
        self._process: OwnProcess | None = None

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return None if self._process is None else self._process.poll()

    def start(self, *, log: Path | None = None) -> "Service":
        """Start it, or start it again after it ended; the log goes on, unless this once it is to go to `log`."""
        assert not self.running, f"{self.name} runs already"
        command = [str(self._program), *self.arguments]
        start = fork_server.start if self._forked else spawn
        self._process = start(command, env=self._env, log=log or self._log, cwd=self._directory)
        return self

    async def wait_ready(self, ready: Ready, timeout: float = READY_WITHIN) -> "Service":
        """Wait for `answers(url)`, `logged(text)` or a predicate of yours; fails at once if it exits."""

        async def check() -> bool:
            assert self.running, f"{self.name} exited with {self.exit_code}:\n{self.log()}"
            answer = ready(self)
            return answer if isinstance(answer, bool) else await answer

        await until(check, timeout, lambda: f"{self.name} ready:\n{self.log()}")
        return self

    def kill(self) -> None:
        """SIGKILL for the process and all its children, and wait until they are gone."""
        if self._process is not None:
            kill_tree(self._process)

    def signal(self, number: signal.Signals) -> None:
        """A signal to the process alone: SIGSTOP and SIGCONT for a zombie, SIGKILL to orphan its children."""
        self._running().send_signal(number)

    async def terminate(self, timeout: float = READY_WITHIN) -> int:
        """SIGTERM; the exit code. Fails if it has not ended by then."""
        self.signal(signal.SIGTERM)
        return await self.wait_exit(timeout)

    async def wait_exit(self, timeout: float = READY_WITHIN) -> int:
        await until(lambda: not self.running, timeout, lambda: f"{self.name} to exit:\n{self.log()}")
        assert self.exit_code is not None
        return self.exit_code

    def log(self, lines: int = 200) -> str:
        """The end of what it wrote to stdout and stderr, over all its starts."""
        return tail(self._log, lines)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def _running(self) -> OwnProcess:
        assert self._process is not None, f"{self.name} was not started"
        return self._process


def answers(url: str, status: int = 200) -> Ready:
    """Ready when a GET of `url` gives this status: `answers(f"{base}/readyz")`."""

    async def check(_: Service) -> bool:
        async with httpx.AsyncClient(trust_env=False, verify=TRUSTS_NOBODY, timeout=2) as client:
            try:
                return (await client.get(url)).status_code == status
            except httpx.TransportError:
                return False

    return check


def logged(text: str) -> Ready:
    """Ready when its log holds `text`."""
    return lambda service: text in service.log(lines=10_000)


def run(*arguments: str, env: Mapping[str, str], timeout: float = 60.0) -> str:
    """Run `accepted …` to its end; stdout. Raises with its whole output unless it exits 0."""
    done = subprocess.run(
        [ACCEPTED, *arguments],
        env=clean_environment() | dict(env),
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode:
        raise RuntimeError(f"accepted {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def clean_environment() -> dict[str, str]:
    unwanted = ("ACCEPTED_", "PYTHONDONTWRITEBYTECODE")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return inherited | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": SOURCES, "PYTHONPYCACHEPREFIX": str(BYTECODE)}


StartService = Callable[..., Service]
