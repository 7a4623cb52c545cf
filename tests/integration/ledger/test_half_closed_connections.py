"""PostgreSQL ends a connection: its last words have arrived, the end of the stream has not, and a command is sent."""

import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.errors import LedgerUnavailable
from accepted.storage.db.engine import create_engine, transaction
from accepted.storage.db.statements import Direct, Statement

WHO = Statement("SELECT pg_backend_pid()")
FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
LAST_WORDS = b"E" + struct.pack("!i", len(FIELDS) + 4) + FIELDS  # ErrorResponse, as pg_terminate_backend has it sent


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(database_url, pool_size=1)
    yield made
    await made.dispose()


async def test_a_kept_connection(engine: AsyncEngine) -> None:
    direct = Direct(engine)
    async with direct.transaction() as conn:
        pid = int(await WHO.value(conn))
        driver: Any = conn
    driver._protocol.data_received(LAST_WORDS)
    with pytest.raises(LedgerUnavailable):
        async with direct.transaction() as conn:
            await conn.commit()
    async with direct.transaction() as conn:
        assert int(await WHO.value(conn)) != pid, "the broken connection was used again"
    await direct.close()


async def test_a_connection_of_the_pool(engine: AsyncEngine) -> None:
    async with transaction(engine) as conn:
        pid = int(await WHO.value(conn))
        driver: Any = (await conn.get_raw_connection()).driver_connection
    driver._protocol.data_received(LAST_WORDS)
    with pytest.raises(LedgerUnavailable):
        async with transaction(engine) as conn:
            await WHO.rows(conn)
    async with transaction(engine) as conn:
        assert int(await WHO.value(conn)) != pid, "the broken connection was used again"
