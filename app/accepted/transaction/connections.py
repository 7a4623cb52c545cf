"""One statement on a caller's connection, whatever its driver, in the transaction that is open there.

A driver is imported only if the caller's connection is one of its own.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

_NO_TRANSACTION = "no transaction is open on this connection: begin one, or the job is there whatever becomes of yours"


class CallersStatement:
    """A statement that returns one id. Its `{name}`s are values, written as each driver has them."""

    def __init__(self, sql: str, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self.named = sql.format(**{name: f":{name}" for name in names})
        self.formatted = sql.format(**{name: f"%({name})s" for name in names})
        self.numbered = sql.format(**{name: f"${number}" for number, name in enumerate(names, 1)})

    def run(self, conn: Any, **values: str) -> Any:
        """The id, or an awaitable of it. Raises `TypeError` for a connection of no known driver."""
        return _runner(conn)(self, conn, values)

    def positional(self, values: dict[str, str]) -> list[str]:
        return [values[name] for name in self._names]


def _runner(conn: object) -> Callable[[CallersStatement, Any, dict[str, str]], Any]:
    for kind in type(conn).__mro__:
        if runner := _RUNNERS.get(kind.__module__.partition(".")[0]):
            return runner
    raise TypeError(f"{type(conn).__name__} is no connection or session of SQLAlchemy, asyncpg or psycopg")


def _on_sqlalchemy(statement: CallersStatement, conn: Any, values: dict[str, str]) -> Any:
    from sqlalchemy import text

    result = conn.execute(text(statement.named), values)
    return _scalar_later(result) if inspect.isawaitable(result) else _id(result.scalar_one())


async def _scalar_later(result: Any) -> UUID:
    return _id((await result).scalar_one())


async def _on_asyncpg(statement: CallersStatement, conn: Any, values: dict[str, str]) -> UUID:
    if not conn.is_in_transaction():
        raise ValueError(_NO_TRANSACTION)
    return _id(await conn.fetchval(statement.numbered, *statement.positional(values)))


def _on_psycopg(statement: CallersStatement, conn: Any, values: dict[str, str]) -> Any:
    from psycopg.pq import TransactionStatus
    from psycopg.rows import scalar_row

    if conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE:
        raise ValueError(_NO_TRANSACTION)
    cursor = conn.cursor(row_factory=scalar_row)
    executed = cursor.execute(statement.formatted, values)
    return _row_later(cursor, executed) if inspect.isawaitable(executed) else _id(cursor.fetchone())


async def _row_later(cursor: Any, executed: Any) -> UUID:
    await executed
    return _id(await cursor.fetchone())


def _id(found: object) -> UUID:
    """psycopg2, below SQLAlchemy, has ids as text."""
    return found if isinstance(found, UUID) else UUID(str(found))


_RUNNERS: dict[str, Callable[[CallersStatement, Any, dict[str, str]], Any]] = {
    "sqlalchemy": _on_sqlalchemy,
    "asyncpg": _on_asyncpg,
    "psycopg": _on_psycopg,
}
