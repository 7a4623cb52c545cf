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

    from accepted.settings import Settings

BOOTSTRAP = "import sys; from accepted.cli.dev import serve_as_worker; serve_as_worker(int(sys.argv[1]))"

RESTART_AFTER = 0.5
"""Seconds, so that a worker that dies at once does not take a whole core."""

log = structlog.get_logger("dev")


class WorkerProcess:
    """The process of the worker, in a `with` block: it ends with the block, and with this process however that ends.

    It starts at once, to load what it needs while this process does the same, and serves once it is told the ledger.
    """

    def __init__(self, concurrency: int, broker_url: str | None, auth: str) -> None:
        self._orders = {"concurrency": concurrency, "broker_url": broker_url, "auth": auth}

    def __enter__(self) -> "WorkerProcess":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lifeline)
        self._process.kill()
        self._process.wait()

    async def serve(self, database_url: str, stopping: asyncio.Event, leaving: Callable[[], bool]) -> None:
        """Have it serve this ledger, and replace it whenever it has ended, until `stopping` is set: then it stops.

        A Ctrl-C reaches it too, so it may have stopped before; `leaving()` tells that this process does the same.
        Raises `typer.Exit` if it cannot serve with these settings, which it has said itself.
        """
        while True:
            self._tell(database_url)
            code = await self._ended(stopping)
            if stopping.is_set() or leaving():
                return
            if code == os.EX_CONFIG:
                raise typer.Exit(1)
            log.warning("worker_restarts", exit_code=code)
            await asyncio.sleep(RESTART_AFTER)
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

    async def _ended(self, stopping: asyncio.Event) -> int:
        """The exit code, once it has ended by itself or because `stopping` was set."""
        ended = asyncio.create_task(asyncio.to_thread(self._process.wait))
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not ended.done():
            self._process.terminate()
        return await ended


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


async def run(settings: "Settings", host: str, sockets: "list[socket.socket]", worker_process: WorkerProcess) -> None:
    """Migrate, then run everything. When the HTTP server stops, worker and scheduler stop too."""
    from accepted.api.app import create_app
    from accepted.api.http import server as serving
    from accepted.storage.db.migrate import migrate as migrate_ledger
    from accepted_worker import scheduler_process

    url = settings.require_database()
    await migrate_ledger(url)
    stopping = asyncio.Event()
    port = sockets[0].getsockname()[1]
    server = serving.Server(serving.config(create_app(settings, "dev"), settings, host, port), "accepted_dev")
    others = [
        asyncio.create_task(worker_process.serve(url, stopping, lambda: server.should_exit)),
        asyncio.create_task(scheduler_process.run_scheduler(settings, stopping, "dev")),
    ]
    try:
        await _serve_beside(server, sockets, others)
    finally:
        stopping.set()
        await asyncio.gather(*others)


async def _serve_beside(
    server: "uvicorn.Server", sockets: "list[socket.socket]", others: "list[asyncio.Task[None]]"
) -> None:
    serving_task = asyncio.create_task(server.serve(sockets))
    await asyncio.wait({serving_task, *others}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving_task
