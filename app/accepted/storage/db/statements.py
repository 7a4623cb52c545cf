"""SQL as storage writes it: a `Statement` with `:named` values, run on either kind of connection.

Most code uses a connection of SQLAlchemy's pool (`accepted.storage.db.engine`). Its layers cost a batch of twenty as
much CPU as everything else in it, so the few places that send one batch after another (submissions, claims, outcomes,
the relay) keep one connection with `Direct` and speak to the driver (docs/decisions/0010). The statements are the same.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeAlias, TypeVar, cast

import msgspec
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.storage.db.engine import DriverConnection, translated

Connection: TypeAlias = AsyncConnection | DriverConnection
"""A connection that storage takes: SQLAlchemy's, or the driver's own. `await conn.commit()` is the same on both."""

Row: TypeAlias = Mapping[str, Any]
"""A row by the names of its columns."""

_Struct = TypeVar("_Struct", bound=msgspec.Struct)

_DIALECT: Any = dialect()  # type: ignore[no-untyped-call]


class Statement:
    """SQL with `:named` values. Columns of the rows that it returns are read by name, so each has a name of its own."""

    def __init__(self, sql: str) -> None:
        self._text = text(sql)
        compiled: Any = self._text.compile(dialect=_DIALECT)
        self._sql = str(compiled)
        self._names: list[str] = compiled.positiontup

    async def rows(self, conn: Connection, **values: object) -> Sequence[Row]:
        """Every row that the statement returns."""
        if isinstance(conn, AsyncConnection):
            result = await conn.execute(self._text, values)
            return cast(Sequence[Row], result.mappings().all()) if result.returns_rows else []
        found: Any = await conn.fetch(self._sql, *self._positional(values))
        return cast(Sequence[Row], found)

    async def run(self, conn: Connection, **values: object) -> None:
        """Run a statement, and read nothing."""
        if isinstance(conn, AsyncConnection):
            await conn.execute(self._text, values)
        else:
            await conn.execute(self._sql, *self._positional(values))

    async def first(self, conn: Connection, **values: object) -> Row | None:
        """The first row; None when there is none."""
        rows = await self.rows(conn, **values)
        return rows[0] if rows else None

    async def value(self, conn: Connection, **values: object) -> Any:
        """The value of a statement that selects one column, from its first row; None when there is none."""
        row = await self.first(conn, **values)
        return None if row is None else next(iter(row.values()))

    async def values(self, conn: Connection, **values: object) -> list[Any]:
        """The values of a statement that selects one column, one of each row."""
        return [next(iter(row.values())) for row in await self.rows(conn, **values)]

    async def count(self, conn: Connection, **values: object) -> int:
        """How many rows the statement has inserted, updated or deleted."""
        if isinstance(conn, AsyncConnection):
            return int((await conn.execute(self._text, values)).rowcount)
        status = str(await conn.execute(self._sql, *self._positional(values)))
        return int(status.rsplit(" ", 1)[-1])

    def _positional(self, values: Mapping[str, object]) -> list[object]:
        return [values[name] for name in self._names]


def struct(kind: type[_Struct], row: Row) -> _Struct:
    """A struct whose fields are the columns of the same names (or encoded names); the row may have more columns."""
    names = zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
    return kind(**{field: row[column] for field, column in names})


_CLOCK = Statement("SELECT clock_timestamp()")


async def ledger_time(conn: Connection) -> datetime:
    """The time of the ledger's clock. That of this machine may be wrong."""
    now: datetime = await _CLOCK.value(conn)
    return now


class Direct:
    """One connection of the driver, kept between transactions. After an error it is dropped and replaced.

    Its statements find rows by index, however few there are. PostgreSQL keeps the plan of a statement until it analyzes
    the tables again, up to minutes later: made while they are empty, it would read all jobs for each batch of a burst.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._checked_out: AsyncConnection | None = None
        self._driver: DriverConnection | None = None
        self._free = asyncio.Lock()

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[DriverConnection]:
        """The connection without BEGIN: PostgreSQL commits each statement before it answers.

        Callers wait for each other. Raises as `accepted.storage.db.engine.transaction` does.
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
        """BEGIN. The caller commits with `await conn.commit()`; without it, the transaction is rolled back."""
        async with self.statements() as driver:
            await driver.execute("BEGIN")
            yield driver
            if driver.is_in_transaction():
                await driver.execute("ROLLBACK")

    async def close(self) -> None:
        """Give the connection back to the pool."""
        async with self._free:
            if self._checked_out is None or self._driver is None or self._driver.is_closed():
                await self._drop()
                return
            try:
                await self._driver.execute("RESET enable_seqscan")
                await self._checked_out.close()
            except BaseException:
                await self._drop()
                raise
            self._checked_out = self._driver = None

    async def _ready(self) -> DriverConnection:
        while self._driver is None or self._driver.is_closed():
            await self._drop()
            self._checked_out = await self._engine.connect()
            fairy = await self._checked_out.get_raw_connection()
            self._driver = fairy.driver_connection
            assert self._driver is not None
            await self._driver.execute("SET enable_seqscan = off")
        return self._driver

    async def _drop(self) -> None:
        conn, self._checked_out, self._driver = self._checked_out, None, None
        if conn is not None:
            await conn.invalidate()
            await conn.close()
