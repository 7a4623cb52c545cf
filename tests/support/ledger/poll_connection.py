"""What a loop of the scheduler looks at the ledger with, for tests that end no process afterwards."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from accepted.storage.db.direct import Direct, Driver


class Looks(Direct):
    """Gives its connection back after each look, so that nobody has to close it."""

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[Driver]:
        async with super().statements() as conn:
            yield conn
        await self.close()
