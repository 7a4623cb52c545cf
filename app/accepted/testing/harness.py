"""`WorkerHarness`: the real service in this process, on a PostgreSQL of its own, for tests of programs that use it.

API, worker and scheduler run on an event loop in a thread, so that handlers of the test's own modules run, and patches
reach them. Nothing is replaced but the ledger's clock, which `advance` sets forward.
"""

import asyncio
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import ExitStack, suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

import httpx
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted import process
from accepted.client.blocking import Client, ClientJob
from accepted.domain.job import INTERNAL_TYPES
from accepted.domain.tenants import SHARED
from accepted.settings import Settings, load
from accepted.storage import job_types
from accepted.storage.db import embedded, movable_clock
from accepted.storage.db.engine import create_engine, transaction
from accepted.storage.db.migrate import migrate

SERVICE = ("accepted.api.app", "accepted_worker.scheduler_process", "accepted_worker.worker_process")
"""What takes longest to load. It is loaded while PostgreSQL starts."""

STARTS_WITHIN = 60.0
"""Seconds; it takes two or three."""

LOOK_EVERY = 0.02
"""Seconds between two looks at what is still to be done."""

MOST_STEPS = 1000
"""Times at which `advance` stops on its way, because something is due there."""

Found = TypeVar("Found")


class WorkerHarness:
    """The service, in a `with` block or from `start` to `stop`. One at a time in a process.

    `handlers` are modules, or their names; default: ACCEPTED_HANDLERS. Settings of the environment apply, and those
    given here. `url` is where the service answers; `client` is a client of it. `database_url` is the ledger's, for
    programs that submit in their own transaction.
    """

    database_url: str
    url: str
    client: Client

    def __init__(
        self, handlers: Iterable[str | ModuleType] | None = None, *, concurrency: int = 10, **settings: Any
    ) -> None:
        names = None if handlers is None else tuple(one if isinstance(one, str) else one.__name__ for one in handlers)
        fixed = {"auth": "off", "broker_url": "postgres", "shutdown_grace": 1.0, "blocked_limit": "off"}
        self._given = {**fixed, "handlers": names, **settings}
        self._concurrency = concurrency
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the service answers and its worker has registered its types."""
        loading = threading.Thread(target=lambda: [import_module(name) for name in SERVICE])
        loading.start()
        directory = Path(tempfile.mkdtemp(prefix="accepted-testing-"))
        self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
        self.database_url = self._stack.enter_context(embedded.running(directory))
        self._settings = load(**self._given, database_url=self.database_url)
        sockets = process.bind("127.0.0.1", 0)
        self.url = process.url_of(sockets[0])
        self.client = self._stack.enter_context(Client(self.url, ""))
        loading.join()
        self._thread = _LoopThread()
        self._stack.callback(self._thread.stop)
        movable_clock.use()
        self._thread.call(self._begin(self._settings, sockets))
        self._stack.callback(lambda: self._thread.call(self._end()))
        self._until(self._is_ready, STARTS_WITHIN, "the service to start")

    def stop(self) -> None:
        """Stop the service and delete its data."""
        self._stack.close()

    def submitted(self, type: str | None = None) -> list[ClientJob]:
        """All jobs since the last `clear`, of this type if one is named, oldest first, with payloads and results.

        Webhooks are no jobs here.
        """
        found = self.client.jobs(include=["payload", "result"], type=type)
        return [job for job in found if job.type not in INTERNAL_TYPES][::-1]

    def drain(self, timeout: float = 30.0) -> None:
        """Wait until all that is due has been done: jobs, children, webhooks and schedules.

        What waits for a later time stays where it is. Raises `TimeoutError` after so many seconds.
        """
        self._until(lambda: self._in_ledger(movable_clock.busy) == 0, timeout, "all jobs that are due to end")

    def advance(self, *, timeout: float = 30.0, **by: float) -> None:
        """Set the clock forward: `advance(hours=2)`, with the arguments of `timedelta`; then as `drain`.

        It stops wherever something is due on the way, and waits until that is done: each retry, delay and run of a
        schedule has its turn. `timeout` in seconds for each.
        """
        left = timedelta(**by)
        self.drain(timeout)
        for _ in range(MOST_STEPS):
            wait = self._in_ledger(movable_clock.next_due)
            if wait is None or wait > left:
                break
            step = max(wait, timedelta())
            self._forward(step)
            left -= step
            self.drain(timeout)
        self._forward(left)
        self.drain(timeout)

    def put_schedule(self, name: str, schedule: Mapping[str, Any]) -> None:
        """Make a schedule, or replace it: the body of `PUT /schedules/{name}`."""
        answer = httpx.put(f"{self.url}/schedules/{name}", json=schedule, trust_env=False)
        answer.raise_for_status()

    def clear(self) -> None:
        """Delete all jobs, batches and schedules. Queues keep their settings, and the clock its time."""
        for again in range(5):
            with suppress(Exception):  # a loop of the service has locked the same tables in another order
                self._in_ledger(movable_clock.empty)
                return
            time.sleep(0.1 * again)
        self._in_ledger(movable_clock.empty)

    def _forward(self, by: timedelta) -> None:
        self._in_ledger(lambda conn: movable_clock.forward(conn, by))

    async def _begin(self, settings: Settings, sockets: list[socket.socket]) -> None:
        from accepted.api.app import create_app
        from accepted.api.http import server as serving
        from accepted_worker import scheduler_process, worker_process
        from accepted_worker.stop_signals import StopOrders

        url = settings.require_database()
        await migrate(url)
        self._engine = create_engine(url, pool_size=2)
        async with transaction(self._engine) as conn:
            await movable_clock.make(conn)
            await conn.commit()
        self._stopping = asyncio.Event()
        port = sockets[0].getsockname()[1]
        self._server = serving.Server(
            serving.config(create_app(settings, "dev"), settings, "127.0.0.1", port), "accepted_testing"
        )
        self._parts = [
            asyncio.create_task(self._server.serve(sockets)),
            asyncio.create_task(worker_process.run_worker(settings, (), self._concurrency, StopOrders(self._stopping))),
            asyncio.create_task(scheduler_process.run_scheduler(settings, self._stopping)),
        ]

    async def _end(self) -> None:
        self._stopping.set()
        self._server.should_exit = self._server.force_exit = True
        await asyncio.gather(*self._parts)
        await self._engine.dispose()

    def _is_ready(self) -> bool:
        for part in self._parts:
            if part.done():
                part.result()
        return self._server.started and bool(self._in_ledger(_types))

    def _until(self, there: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not there():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout:g} s: {what}")
            time.sleep(LOOK_EVERY)

    def _in_ledger(self, act: Callable[[AsyncConnection], Awaitable[Found]]) -> Found:
        async def within() -> Found:
            async with transaction(self._engine) as conn:
                found = await act(conn)
                await conn.commit()
            return found

        return self._thread.call(within())


async def _types(conn: AsyncConnection) -> int:
    return len(await job_types.names(conn, SHARED))


class _LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="accepted-testing", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, Found]) -> Found:
        """Run `work` on the loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
