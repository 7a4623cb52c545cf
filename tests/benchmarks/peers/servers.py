"""The private servers that the peers run on: new ones for each turn, each on a port of its own.

All of them keep what they confirm. PostgreSQL syncs each commit. RabbitMQ has its defaults. Redis appends to a file and
syncs it each second, which its documentation calls the suggested setting: a crash of the machine loses up to a second.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.figures import Failed
from tests.support.servers.children import kill_tree, spawn, tail
from tests.support.servers.ports import free_port
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.rabbitmq import RabbitMQNode

READY_WITHIN = 20.0  # seconds

REDIS = {"appendonly": "yes", "appendfsync": "everysec", "bind": "127.0.0.1", "save": ""}


@dataclass(frozen=True)
class Place:
    """Where one turn of one peer keeps its jobs."""

    urls: Mapping[str, str]
    """By kind of server; of those that the peer uses."""

    counts: Path
    """A directory for the counts of `apps/counting.py`."""


class RedisServer:
    """A Redis of our own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._home = Path(tempfile.mkdtemp(prefix="accepted-redis-"))
        self._log = self._home / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it takes connections."""
        options = [word for name, value in REDIS.items() for word in (f"--{name}", value)]
        command = ["redis-server", "--port", str(self.port), "--dir", str(self._home), *options]
        self._process = spawn(command, env={"PATH": "/usr/bin:/usr/sbin:/bin"}, log=self._log, cwd=self._home)
        deadline = time.monotonic() + READY_WITHIN
        while not listening(self.port):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise Failed(f"Redis did not start:\n{tail(self._log)}")
            time.sleep(0.02)

    def remove(self) -> None:
        """Stop it and delete its data."""
        if self._process is not None:
            kill_tree(self._process)
        shutil.rmtree(self._home, ignore_errors=True)


SERVERS = {"postgres": lambda: PostgresServer(fsync=True), "rabbitmq": RabbitMQNode, "redis": RedisServer}


@contextmanager
def place(uses: Sequence[str]) -> Iterator[Place]:
    """New servers of these kinds, removed afterwards with all that is on them."""
    with ExitStack() as stack:
        counts = Path(stack.enter_context(TemporaryDirectory(prefix="accepted-counts-")))
        yield Place({kind: _started(stack, kind) for kind in uses}, counts)


def _started(stack: ExitStack, kind: str) -> str:
    """Its URL."""
    server = SERVERS[kind]()
    stack.callback(server.remove)
    server.start()
    return server.url() if isinstance(server, PostgresServer) else server.url


def listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
