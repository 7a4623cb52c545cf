"""Connections that died without a word: a network that forgot them, a host that hangs. New ones would work.

And one that nobody wants any more before it is there.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.errors import LedgerUnavailable
from accepted.storage.db import notifications
from accepted.storage.db.engine import POOL_SIZE, create_engine, open_connection, transaction
from tests.support.servers.postgres import PostgresServer


@pytest.fixture
async def engine(postgres_server: PostgresServer, database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(database_url)
    yield made
    await made.dispose()


async def backend(engine: AsyncEngine) -> int:
    """The server's process behind one connection, held long enough for each caller to get another one."""
    async with transaction(engine) as conn:
        return int((await conn.execute(text("SELECT pg_backend_pid(), pg_sleep(0.3)"))).scalar_one())


async def test_what_the_server_has_ended_costs_nobody_an_error(engine: AsyncEngine, database_url: str) -> None:
    """After a restart of PostgreSQL there is a pool full of them."""
    pids = await asyncio.gather(*(backend(engine) for _ in range(POOL_SIZE)))
    other = create_engine(database_url)
    async with transaction(other) as conn:
        for pid in pids:
            assert (await conn.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})).scalar_one()
    await other.dispose()
    again = await asyncio.gather(*(backend(engine) for _ in range(POOL_SIZE)))
    assert not set(pids) & set(again)


async def test_one_timeout_replaces_every_connection_of_the_pool(engine: AsyncEngine) -> None:
    """Else each of the ten would cost its user four seconds: a service that takes 40 s to come back."""
    pids = await asyncio.gather(*(backend(engine) for _ in range(POOL_SIZE)))
    assert len(set(pids)) == POOL_SIZE
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            await backend(engine)
        assert time.monotonic() - started < 10, "a client hears 503 within 5 s"
        await asyncio.gather(*(backend(engine) for _ in range(POOL_SIZE)))
        assert time.monotonic() - started < 20, "the dead are replaced together, not found one by one: 40 s"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_a_listener_ends_though_its_cancel_gets_lost(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in asyncpg, whose `wait_for` before Python 3.12 drops a cancel that comes as the connection is made."""
    connecting = asyncio.Event()

    async def connect_and_drop_it(url: str) -> Any:
        connecting.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await open_connection(url)

    monkeypatch.setattr(notifications, "open_connection", connect_and_drop_it)
    running = asyncio.create_task(notifications.Listener(database_url, "anything", lambda _: None).run())
    await connecting.wait()
    running.cancel()
    await asyncio.wait({running}, timeout=10)
    assert running.done()
