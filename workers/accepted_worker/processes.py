"""What the processes of this package share: their connections, their wait for the end, and their exit."""

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
from accepted.services.scraping import refresh
from accepted.settings import Settings
from accepted.storage.db.engine import create_engine


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


async def first(running: "asyncio.Task[None]", stopping: asyncio.Event) -> None:
    """Wait for `stopping`. If `running` ends first, it has failed: raise its error."""
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        running.result()
