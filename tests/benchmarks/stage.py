"""The servers that are measured on: an embedded PostgreSQL that syncs to disk, a RabbitMQ node, and our processes."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from socket import create_connection
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import psutil

from accepted.broker.rabbitmq.topology import queue_name
from tests.benchmarks.figures import Failed
from tests.support.servers.children import kill_tree, spawn
from tests.support.servers.ports import free_port
from tests.support.servers.postgres import PostgresServer, connect
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.service.processes import ROOT, Service, answers, logged, run
from tests.support.waiting import until

PARTS = {"worker": "worker_ready", "scheduler": "scheduler_ready"}
"""What each process says once it does its work."""


class Stage:
    """A migrated ledger and an empty broker. `api`, `worker` and `scheduler` run beside it while they are needed."""

    def __init__(self, postgres: PostgresServer, rabbitmq: RabbitMQNode) -> None:
        self._rabbitmq = rabbitmq
        self.database_url = postgres.create_database("benchmark")
        self.broker_url = rabbitmq.url
        self._env = {
            "ACCEPTED_DATABASE_URL": self.database_url,
            "ACCEPTED_BROKER_URL": self.broker_url,
            "ACCEPTED_AUTH": "off",
        }
        run("migrate", env=self._env)

    @asynccontextmanager
    async def api(self) -> AsyncIterator[tuple[Service, int]]:
        """`accepted api`, and its port."""
        port = free_port()
        async with self._running("api", f"--port={port}") as service:
            await service.wait_ready(answers(f"http://127.0.0.1:{port}/readyz"))
            yield service, port

    @asynccontextmanager
    async def part(self, name: str, *arguments: str) -> AsyncIterator[Service]:
        """`accepted worker` or `accepted scheduler`."""
        async with self._running(name, *arguments) as service:
            await service.wait_ready(logged(PARTS[name]))
            yield service

    @asynccontextmanager
    async def _running(self, *arguments: str) -> AsyncIterator[Service]:
        service = Service(*arguments, env=self._env).start()
        try:
            yield service
            if not service.running:
                raise Failed(f"{service.name} exited with {service.exit_code}:\n{service.log(20)}")
            await service.terminate()
        finally:
            service.remove()

    @contextmanager
    def settings(self, **values: str) -> Iterator[None]:
        """Meanwhile what is started has these settings, named as in docs/settings.md."""
        before, self._env = self._env, self._env | {f"ACCEPTED_{name}": value for name, value in values.items()}
        try:
            yield
        finally:
            self._env = before

    @contextmanager
    def on_postgres(self) -> Iterator[None]:
        """Meanwhile what is started has the ledger as its broker."""
        with self.settings(BROKER_URL="postgres"):
            yield

    def broker_pid(self) -> int:
        """That of RabbitMQ's Erlang virtual machine."""
        return next(each.pid for each in psutil.Process().children(recursive=True) if each.name() == "beam.smp")

    async def register_types(self) -> None:
        """Let a worker register its types, without taking a job."""
        async with self.part("worker", "--queues=nothing"):
            pass

    @asynccontextmanager
    async def ledger(self) -> "AsyncIterator[asyncpg.Connection[Any]]":
        """A connection of our own, to look."""
        connection = await connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def sweep(self, queue: str = "default") -> None:
        """Forget every job, in the ledger and on the broker, so that no round pays for another's rows."""
        await self.forget()
        self._rabbitmq.purge(queue_name(queue))

    async def forget(self) -> None:
        """The same for jobs that are not on the broker."""
        async with self.ledger() as conn:
            await conn.execute("TRUNCATE jobs, outbox, attempts, idempotency_keys, batches")

    async def until_published(self, timeout: float = 60.0) -> None:
        """Until every job is on the broker and confirmed."""
        async with self.ledger() as conn:
            await until(lambda: _nothing_unpublished(conn), timeout, "everything published")

    async def on_the_broker(self, queue: str, count: int) -> None:
        """Raises `Failed` unless so many messages wait on that queue."""

        def there() -> int:
            return self._rabbitmq.queues().get(queue_name(queue), (0, 0, 0))[0]

        await until(lambda: there() == count, 5, lambda: f"{count} messages on {queue}; there are {there()}")


def cpu_time(pid: int) -> float:
    """Seconds of CPU time that a process has used, without its children."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """The servers, started and removed again."""
    postgres, rabbitmq = PostgresServer(fsync=True), RabbitMQNode()
    try:
        postgres.start()
        rabbitmq.start()
        built = Stage(postgres, rabbitmq)
        await built.register_types()
        yield built
    finally:
        rabbitmq.remove()
        postgres.remove()


async def _nothing_unpublished(conn: "asyncpg.Connection[Any]") -> bool:
    return not await conn.fetchval("SELECT EXISTS (SELECT FROM outbox WHERE NOT published)")


@asynccontextmanager
async def bare_api() -> AsyncIterator[int]:
    """The bare FastAPI application as a process of its own; its port."""
    port = free_port()
    with TemporaryDirectory(prefix="accepted-bare-") as home:
        command = [sys.executable, "-m", "tests.benchmarks.bare_api", str(port)]
        process = spawn(command, env=os.environ, log=Path(home) / "log", cwd=ROOT)
        try:
            await until(lambda: _listening(port), 20, "the bare API")
            yield port
        finally:
            kill_tree(process)


def _listening(port: int) -> bool:
    with suppress(OSError), create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
