"""`accepted dev`: API and scheduler in this process, and the worker in another one.

A handler that blocks its event loop, or ends its process, does that to the worker alone: the API answers meanwhile, and
a worker that has died is replaced.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
import typer

from accepted.errors import AcceptedError

if TYPE_CHECKING:
    import socket

    import uvicorn
    from sqlalchemy.ext.asyncio import AsyncEngine

    from accepted.settings import Settings

BOOTSTRAP = "import sys; from accepted.cli.dev import serve_as_worker; serve_as_worker(int(sys.argv[1]))"

RESTART_AFTER = 0.5
"""Seconds, so that a worker that dies at once does not take a whole core."""

SIGNAL_AGAIN = 0.5
"""Seconds between two signals of one kind."""

HURRIED_END = 2.0
"""Seconds that the application has to close its connections after a second Ctrl-C."""

GREET_EVERY = 0.2
"""Seconds between two looks for the worker, whose types the greeting names."""

log = structlog.get_logger("dev")


class WorkerProcess:
    """The process of the worker, in a `with` block: it ends with the block, and with this process however that ends.

    It starts at once, to load what it needs while this process does the same, and serves once it is told the ledger.
    """

    def __init__(self, concurrency: int, broker_url: str | None, auth: str, *, reload: bool = False) -> None:
        self._reload = reload
        self._orders = {"concurrency": concurrency, "broker_url": broker_url, "auth": auth}

    def __enter__(self) -> "WorkerProcess":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lifeline)
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def serve(self, database_url: str, ending: "Ending", leaving: Callable[[], bool]) -> None:
        """Have it serve this ledger, and replace it whenever it has ended, until `ending.stopping` is set.

        Then it stops. A Ctrl-C reaches it too, so it may have stopped before; `leaving()` tells that this process does
        the same.
        When a file has changed it ends its running jobs, and another one takes its place. Raises `typer.Exit` if it
        cannot serve with these settings, which it has said itself, and no file is watched that could change that.
        """
        while True:
            self._tell(database_url)
            code = await self._ended(ending)
            if ending.stopping.is_set() or leaving():
                return
            if code == os.EX_CONFIG and not self._reload:
                raise typer.Exit(1)
            if code == os.EX_CONFIG:
                await ending.first(ending.stopping, ending.changed)
            elif not ending.changed.is_set():
                log.warning("worker_restarts", exit_code=code)
                await asyncio.sleep(RESTART_AFTER)
            if ending.stopping.is_set():
                return
            ending.changed.clear()
            os.close(self._lifeline)
            self._start()

    def _start(self) -> None:
        orders, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen([sys.executable, "-P", "-c", BOOTSTRAP, str(orders)], pass_fds=(orders,))
        finally:
            os.close(orders)

    def _tell(self, database_url: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died, and is about to be replaced
            os.write(self._lifeline, json.dumps(self._orders | {"database_url": database_url}).encode() + b"\n")

    async def _ended(self, ending: "Ending") -> int:
        """The exit code. Meanwhile it is sent the signals for what happens here."""
        sending = [
            asyncio.create_task(self._send(ending.stopping, signal.SIGTERM)),
            asyncio.create_task(self._send(ending.changed, signal.SIGTERM)),
            asyncio.create_task(self._send(ending.at_once, signal.SIGINT)),
        ]
        try:
            return await asyncio.to_thread(self._process.wait)
        finally:
            for each in sending:
                each.cancel()

    async def _send(self, when: asyncio.Event, number: signal.Signals) -> None:
        """Again and again, because a signal may come before the one that it follows has been seen."""
        await when.wait()
        while True:
            self._process.send_signal(number)
            await asyncio.sleep(SIGNAL_AGAIN)


class Ending:
    """What ends a worker: this command stops, or hands back at once, or a file has changed."""

    def __init__(self) -> None:
        self.stopping, self.at_once, self.changed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @staticmethod
    async def first(*events: asyncio.Event) -> None:
        """Wait until one of `events` is set."""
        waiting = [asyncio.create_task(event.wait()) for event in events]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()

    async def watch(self) -> None:
        """Set `changed` when a Python file below the working directory has changed."""
        from watchfiles import PythonFilter, awatch

        async for _ in awatch(os.getcwd(), watch_filter=PythonFilter(), stop_event=self.stopping):
            log.info("handlers_reload")
            self.changed.set()


def serve_as_worker(orders: int) -> None:
    """The other process. `orders` is the pipe from which it reads what to do; its other end is closed at the latest."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C before it serves needs no traceback

    from accepted import logs, process

    process.collect_rarely()

    from accepted.settings import load
    from accepted_worker import worker_process

    with os.fdopen(orders, closefd=False) as pipe:
        line = pipe.readline()
    if not line:
        return
    process.end_with(orders, os.getpid())
    given = json.loads(line)
    logs.configure(pretty=True)
    process.raise_descriptor_limit()
    try:
        settings = load(**{name: given[name] for name in ("database_url", "broker_url", "auth")})
        if "blocked_limit" not in settings.model_fields_set:  # a breakpoint in a handler blocks the loop as well
            settings = settings.model_copy(update={"blocked_limit": None})
        worker_process.worker(settings, (), given["concurrency"], "dev")
    except AcceptedError as error:
        sys.stderr.write(f"accepted: {error or type(error).__name__}\n")
        sys.exit(os.EX_CONFIG)


async def run(
    settings: "Settings",
    host: str,
    sockets: "list[socket.socket]",
    worker_process: WorkerProcess,
    ledger: str,
    *,
    reload: bool,
) -> None:
    """Migrate, then run everything. When the HTTP server stops, worker and scheduler stop too.

    `ledger` says where the data are. With `reload` the worker is replaced when a Python file has changed.
    """
    from accepted.api.app import create_app
    from accepted.api.http import server as serving
    from accepted.storage.db.migrate import migrate as migrate_ledger
    from accepted_worker import scheduler_process

    url = settings.require_database()
    await migrate_ledger(url)
    ending = Ending()
    port = sockets[0].getsockname()[1]
    app = create_app(settings, "dev")
    server = serving.Server(serving.config(app, settings, host, port), "accepted_dev")
    others = [
        asyncio.create_task(worker_process.serve(url, ending, lambda: server.should_exit)),
        asyncio.create_task(scheduler_process.run_scheduler(settings, ending.stopping, "dev")),
        *([asyncio.create_task(ending.watch())] if reload else []),
    ]
    greeting = asyncio.create_task(_greet(settings, app.state.accepted.engine, sockets[0], worker_process, ledger))
    try:
        await _serve_beside(server, sockets, others)
    finally:
        greeting.cancel()
        _hurry_on_interrupt(ending.at_once)
        ending.stopping.set()
        if server.force_exit:
            ending.at_once.set()
        await asyncio.gather(*others)


async def _greet(
    settings: "Settings", engine: "AsyncEngine", bound: "socket.socket", worker: WorkerProcess, ledger: str
) -> None:
    from accepted import process
    from accepted.cli.greeting import greeting
    from accepted.domain.job import INTERNAL_TYPES
    from accepted.errors import LedgerUnavailable
    from accepted.services.monitoring import processes

    while True:
        with contextlib.suppress(LedgerUnavailable):
            for one in await processes.live(engine, None, settings.lease_ttl):
                if one["kind"] == "worker" and one["pid"] == worker.pid:
                    sys.stderr.write(
                        greeting(process.url_of(bound), sorted({*one["types"]} - {*INTERNAL_TYPES}), ledger)
                    )
                    return
        await asyncio.sleep(GREET_EVERY)


def _hurry_on_interrupt(at_once: asyncio.Event) -> None:
    """From now on a Ctrl-C sets `at_once`; the HTTP server has taken the first."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, at_once.set)
    loop.add_signal_handler(signal.SIGTERM, lambda: None)


async def _serve_beside(
    server: "uvicorn.Server", sockets: "list[socket.socket]", others: "list[asyncio.Task[None]]"
) -> None:
    serving_task = asyncio.create_task(server.serve(sockets))
    await asyncio.wait({serving_task, *others}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving_task
    if server.force_exit:  # uvicorn then leaves the application as it is, which ends in a traceback
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.lifespan.shutdown(), HURRIED_END)
