"""What the processes of this package share: connections, a row in the ledger, the wait for the end, and the exit."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import logs, metrics_port
from accepted.broker import create_broker
from accepted.broker.base import Broker
from accepted.errors import WorkerExhausted
from accepted.metrics import observed_loop
from accepted.services.monitoring.presence import Presence
from accepted.services.scraping import refresh
from accepted.settings import Settings
from accepted.storage.db.engine import create_engine
from accepted.storage.db.notifications import DRAINS, EVERYTHING, SETTINGS, Listener


@contextlib.contextmanager
def exiting() -> Iterator[None]:
    """End the process after this block, because the interpreter would wait for threads that never return."""
    code = 0
    try:
        yield
    except WorkerExhausted as error:
        sys.stderr.write(f"accepted: {error}\n")
        code = 1
    logs.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.asynccontextmanager
async def connections(settings: Settings) -> AsyncIterator[tuple[AsyncEngine, Broker]]:
    engine = create_engine(settings.require_database())
    broker = create_broker(settings, engine)
    try:
        async with observed_loop(), metrics_port.refreshed(partial(refresh, engine)):
            yield engine, broker
    finally:
        await broker.close()
        await engine.dispose()


@contextlib.asynccontextmanager
async def present(presence: Presence, database_url: str) -> AsyncIterator[None]:
    """Meanwhile the process has its row in the ledger, and drains as soon as somebody asks for that."""
    listener = Listener(database_url, SETTINGS, lambda kind: presence.look() if kind in (DRAINS, EVERYTHING) else None)

    async def listen() -> None:
        await presence.shown.wait()
        await listener.run()

    keeping = [asyncio.create_task(presence.run()), asyncio.create_task(listen())]
    try:
        yield
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)
        await presence.end()


async def first(running: "asyncio.Task[None]", stopping: asyncio.Event) -> None:
    """Wait for `stopping`, or until `running` has ended. Raises its error if it has failed."""
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        running.result()
