"""The few statements whose rate matters, on the driver's own connection.

SQLAlchemy's layers cost a batch of twenty as much CPU as all the rest of it. So whoever sends one batch after
another (submissions, claims, outcomes, the relay) keeps one connection of the engine's pool and speaks to the
driver. The statements are the same on both: written once, compiled once, and run on whichever connection is given.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.storage.db.engine import DriverConnection, translated

Connection: TypeAlias = AsyncConnection | DriverConnection
"""A connection that storage takes: SQLAlchemy's, or the driver's own. `await conn.commit()` is the same on both."""

_DIALECT: Any = dialect()  # type: ignore[no-untyped-call]


class Statement:
    """SQL with `:named` values, for either kind of connection."""

    def __init__(self, sql: str) -> None:
        self._text = text(sql)
        compiled: Any = self._text.compile(dialect=_DIALECT)
        self._sql = str(compiled)
        self._names: list[str] = compiled.positiontup

    async def rows(self, conn: Connection, **values: object) -> Sequence[Sequence[Any]]:
        if isinstance(conn, AsyncConnection):
            result = await conn.execute(self._text, values)
            return result.all() if result.returns_rows else []
        found: Any = await conn.fetch(self._sql, *[values[name] for name in self._names])
        return cast(Sequence[Sequence[Any]], found)


class Direct:
    """One connection, kept between transactions. After any error it is dropped, never used again."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._checked_out: AsyncConnection | None = None
        self._driver: DriverConnection | None = None
        self._free = asyncio.Lock()

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[DriverConnection]:
        """Each statement is a transaction of its own: PostgreSQL commits it before it answers.

        Raises as `accepted.storage.db.engine.transaction` does. Users wait for each other.
        """
        async with self._free:
            with translated():
                try:
                    yield await self._ready()
                except BaseException:
                    await self._drop()
                    raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[DriverConnection]:
        """BEGIN; the caller commits in plain sight with `await conn.commit()`, else it rolls back."""
        async with self.statements() as driver:
            await driver.execute("BEGIN")
            yield driver
            if driver.is_in_transaction():
                await driver.execute("ROLLBACK")

    async def close(self) -> None:
        """Give the connection back to the pool."""
        async with self._free:
            if self._checked_out is not None:
                await self._checked_out.close()
            self._checked_out = self._driver = None

    async def _ready(self) -> DriverConnection:
        while self._driver is None or self._driver.is_closed():
            await self._drop()
            self._checked_out = await self._engine.connect()
            fairy = await self._checked_out.get_raw_connection()
            self._driver = fairy.driver_connection
            assert self._driver is not None
        return self._driver

    async def _drop(self) -> None:
        conn, self._checked_out, self._driver = self._checked_out, None, None
        if conn is not None:
            await conn.invalidate()
            await conn.close()
