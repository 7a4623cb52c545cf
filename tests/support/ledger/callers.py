"""Callers of the service with a database connection of their own, one of each driver and kind."""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import asyncpg
import psycopg
import sqlalchemy
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from sqlalchemy.orm import Session

Submit: TypeAlias = Callable[[Any], Any]
"""Called with a connection on which a transaction is open; returns an id or an awaitable of it."""

PSYCOPG = "postgresql+psycopg://"


async def submitted(conn: Any, submit: Submit) -> Any:
    found = submit(conn)
    return await found if inspect.isawaitable(found) else found


@contextmanager
def _engine(url: str) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(url.replace("postgresql://", PSYCOPG))
    yield engine
    engine.dispose()


@asynccontextmanager
async def _async_engine(url: str) -> AsyncIterator[Any]:
    engine = sqlalchemy_asyncio.create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    yield engine
    await engine.dispose()


@asynccontextmanager
async def sqlalchemy_connection(url: str) -> AsyncIterator[Any]:
    with _engine(url) as engine, engine.connect() as conn:
        yield conn


@asynccontextmanager
async def sqlalchemy_session(url: str) -> AsyncIterator[Any]:
    with _engine(url) as engine, Session(engine) as session:
        yield session


@asynccontextmanager
async def sqlalchemy_async_connection(url: str) -> AsyncIterator[Any]:
    async with _async_engine(url) as engine, engine.connect() as conn:
        yield conn


@asynccontextmanager
async def sqlalchemy_async_session(url: str) -> AsyncIterator[Any]:
    async with _async_engine(url) as engine, sqlalchemy_asyncio.AsyncSession(engine) as session:
        yield session


class AsyncpgCaller(asyncpg.Connection):  # type: ignore[misc]
    """With the `commit` and `rollback` of the others. Drivers are found below classes of the caller's own."""

    async def commit(self) -> None:
        await self.execute("COMMIT; BEGIN")

    async def rollback(self) -> None:
        await self.execute("ROLLBACK; BEGIN")


@asynccontextmanager
async def asyncpg_connection(url: str) -> AsyncIterator[Any]:
    conn = await asyncpg.connect(url, connection_class=AsyncpgCaller)
    await conn.execute("BEGIN")
    yield conn
    await conn.close()


@asynccontextmanager
async def psycopg_connection(url: str) -> AsyncIterator[Any]:
    with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as conn:
        yield conn


@asynccontextmanager
async def psycopg_async_connection(url: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(url) as conn:
        yield conn


CALLERS: list[Callable[[str], AbstractAsyncContextManager[Any]]] = [
    sqlalchemy_connection, sqlalchemy_session, sqlalchemy_async_connection, sqlalchemy_async_session,
    asyncpg_connection, psycopg_connection, psycopg_async_connection,
]  # fmt: skip
