"""The connection with which a loop of the scheduler polls the ledger, for tests that run the loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from accepted.storage.db.engine import DriverConnection
from accepted.storage.db.statements import Direct


class PollConnection(Direct):
    """Is given back after each poll, so that no test has to close it."""

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[DriverConnection]:
        async with super().statements() as conn:
            yield conn
        await self.close()
