"""Connections to the ledger, and their timeouts.

asyncpg would wait for ever on a half-open socket, so each layer has a timeout of its own: connecting, one command, TCP
(keepalive and user timeout), and in the server the statement and the idle transaction. Driver errors that mean an
outage are raised as `LedgerUnavailable`; any other error of a statement is a bug, or a value that cannot be stored.

Our tables live in the PostgreSQL schema `accepted`, which every connection has as its search_path. It is set after
connecting, not as a startup parameter: so `DEFAULT` still means the path of the role or database, which a handler's
transaction gets.
"""

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from accepted import logs
from accepted.domain.network.servers import PostgresUrl, first_line, refusal
from accepted.errors import LedgerUnavailable, describe

SCHEMA = "accepted"
"""The PostgreSQL schema of all our tables, and of `alembic_version`."""

CONNECT_TIMEOUT = 2.0
"""Seconds for opening a connection, unless the URL has a `connect_timeout`."""

COMMAND_TIMEOUT = 4.0
"""Seconds for one command. Less than the 5 s until a client must get 503."""

CLOSE_TIMEOUT = 0.2
"""Seconds for closing a connection that may be dead."""

RETRY_SECONDS = 0.5
"""Seconds before work that has to wait for the ledger is tried again."""

POOL_TIMEOUT = 2.0
POOL_SIZE = 10

SEARCH_PATH = f"{SCHEMA}, pg_temp"
"""pg_temp is named, or it would come first: a temporary table that a handler leaves must not hide one of ours."""

SERVER_SETTINGS = {
    "application_name": "accepted",
    "timezone": "UTC",
    "jit": "off",  # it can compile a 2 ms statement for 200 ms
    "statement_timeout": "10s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

_SOCKET_OPTIONS = (
    (socket.TCP_KEEPIDLE, "keepalives_idle", 10),
    (socket.TCP_KEEPINTVL, "keepalives_interval", 5),
    (socket.TCP_KEEPCNT, "keepalives_count", 3),
    (socket.TCP_USER_TIMEOUT, "tcp_user_timeout", 10_000),
)
"""The option, the parameter that sets it, and its value without one (libpq: 0 is the default)."""

_BROKEN = (asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What the driver raises for a connection that is closed, or is being closed by the server."""

_OUTAGES = {"08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX"}

_NOT_MIGRATED = {"42P01", "42703"}

Value = TypeVar("Value")

log = structlog.get_logger(__name__)


class DriverConnection(asyncpg.Connection):
    """asyncpg's connection, with SQLAlchemy's `commit` and a bound on closing."""

    async def commit(self) -> None:
        """Commit the transaction that `BEGIN` has opened."""
        await self.execute("COMMIT")

    async def close(self, *, timeout: float | None = None) -> None:
        """Close within `CLOSE_TIMEOUT`, because SQLAlchemy closes a pool one by one, with 2 s for each."""
        await super().close(timeout=CLOSE_TIMEOUT)


def create_engine(url: str, pool_size: int = POOL_SIZE, command_timeout: float | None = COMMAND_TIMEOUT) -> AsyncEngine:
    """An engine for the ledger at `url` (`postgresql://…`). Nothing is connected yet. Its own `url` is for people."""

    async def connect() -> "DriverConnection":
        return await open_connection(url, command_timeout)

    server = PostgresUrl.parse(url)
    engine = create_async_engine(
        URL.create("postgresql+asyncpg", server.user, host=server.hosts, database=server.database),
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        pool_reset_on_return="rollback",
    )
    event.listen(engine.sync_engine, "checkout", _only_open)
    return _distrusting(engine)


def engine_beside(engine: AsyncEngine) -> AsyncEngine:
    """An engine for the same ledger with a pool of its own: each event loop needs one."""
    return _distrusting(create_async_engine(engine.url, pool=engine.pool.recreate()))


async def open_connection(url: str, command_timeout: float | None = COMMAND_TIMEOUT) -> "DriverConnection":
    """One connection of the driver with all timeouts set, for LISTEN and for the engine's pool.

    Raises `LedgerUnavailable`, which says in one line where the ledger is, what the server answered, and what to do.
    """
    server = PostgresUrl.parse(url)
    seconds = server.numbers.get("connect_timeout") or CONNECT_TIMEOUT
    try:
        connection: DriverConnection = await asyncpg.connect(
            server.for_driver,
            timeout=seconds,
            command_timeout=command_timeout,
            server_settings=_server_settings(server),
            connection_class=DriverConnection,
        )
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, *_BROKEN) as error:
        said = refusal(error, "ACCEPTED_DATABASE_URL")
        raise LedgerUnavailable(f"{where(server.hosts, server.user, server.database)}: {said}") from error
    _bound_socket(connection, server.numbers)
    try:
        await connection.execute(f"SET search_path TO {SEARCH_PATH}", timeout=seconds)
    except BaseException:
        connection.terminate()
        raise
    return connection


def where(hosts: str | None, user: str | None, database: str | None) -> str:
    """The ledger by host, user and database, for people. What the URL leaves out is what the driver takes instead."""
    user = user or os.environ.get("PGUSER") or getpass.getuser()
    hosts = hosts or os.environ.get("PGHOST") or "the local socket"
    return f"the ledger at {hosts}, user {user!r}, database {database or os.environ.get('PGDATABASE') or user!r}"


def _server_settings(server: PostgresUrl) -> dict[str, str]:
    """Ours, which win over `options`; the name of the application is the operator's."""
    texts = server.texts
    name = texts.get("application_name") or texts.get("fallback_application_name")
    named = {"application_name": name} if name else {}
    return SERVER_SETTINGS | named | ({"options": texts["options"]} if "options" in texts else {})


def _cause(error: BaseException) -> str:
    """The driver's error below SQLAlchemy's, in one line, without values."""
    origin = getattr(error, "orig", None)
    cause = (origin.__cause__ or origin) if origin is not None else error
    if isinstance(cause, PoolTimeout):
        return "no connection of the pool came free in time"
    said = f"{type(cause).__name__}: {first_line(cause)}"
    return f"{said}; run `accepted migrate`" if getattr(cause, "sqlstate", None) in _NOT_MIGRATED else said


@contextmanager
def translated() -> Iterator[None]:
    """Raises `LedgerUnavailable` for driver errors that mean an outage; other errors of a statement pass."""
    try:
        yield
    except (SQLAlchemyError, OSError, TimeoutError, asyncpg.PostgresError, *_BROKEN) as error:
        if is_unavailable(error):
            raise LedgerUnavailable(_cause(error)) from error
        raise


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction. The caller commits with `await conn.commit()`; without it, the transaction is rolled back.

    Raises `LedgerUnavailable` when the ledger is unreachable, slow or full, and drops the connection.
    """
    with translated():
        async with engine.connect() as conn:
            try:
                yield conn
            except BaseException as error:
                if not isinstance(error, SQLAlchemyError) or is_unavailable(error):
                    await conn.invalidate()
                raise


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection on which each statement is a transaction of its own, without BEGIN and COMMIT around it.

    Raises as `transaction` does.
    """
    async with transaction(engine) as conn:
        yield await conn.execution_options(isolation_level="AUTOCOMMIT")


async def retry_until_available(
    work: Callable[[], Awaitable[Value]],
    event: str,
    job_id: UUID | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Value:
    """Call `work` until it does not raise `LedgerUnavailable`, and log each time it does as `event`.

    The caller limits the time: an attempt by its timeout, others by `stop`, after which the error is raised.
    """
    about = {} if job_id is None else {"job_id": str(job_id)}
    while True:
        try:
            return await work()
        except LedgerUnavailable as error:
            if stop():
                raise
            logs.outage(event, error, **about)
            await asyncio.sleep(RETRY_SECONDS)


async def done_when_available(work: Callable[[], Awaitable[None]], stop: Callable[[], bool]) -> bool:
    """Wait for the ledger at a start, and do `work`. False if the process is stopped before: it was never ready."""
    try:
        await retry_until_available(work, "waiting_for_ledger", stop=stop)
    except LedgerUnavailable as error:
        log.info("stopped_before_ready", error=describe(error))
        return False
    return True


def is_unavailable(error: BaseException) -> bool:
    """Whether `error` means that the ledger did not answer, rather than that it refused the statement."""
    if isinstance(error, DBAPIError):
        origin = error.orig
        return (
            error.connection_invalidated
            or isinstance(error, (OperationalError, InterfaceError))
            or _is_outage(getattr(origin, "sqlstate", None) or "")
            or isinstance(origin.__cause__ if origin else None, (OSError, TimeoutError, asyncio.TimeoutError))
        )
    if isinstance(error, asyncpg.PostgresError):
        return _is_outage(error.sqlstate or "")
    return isinstance(error, (PoolTimeout, OSError, TimeoutError, *_BROKEN))


def _distrusting(engine: AsyncEngine) -> AsyncEngine:
    event.listen(engine.sync_engine, "handle_error", _distrust_the_pool)
    return engine


def _distrust_the_pool(context: ExceptionContext) -> None:
    """After a command without an answer, replace every connection of the pool.

    The network has probably lost all of them, and each would cost its next user a timeout, long after the outage.
    """
    if isinstance(context.original_exception, TimeoutError):
        context.invalidate_pool_on_disconnect = True


def _only_open(connection: Any, *_: object) -> None:
    """Refuse a connection that the server has closed, so that the pool replaces it before it is used."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _is_outage(sqlstate: str) -> bool:
    """Classes 08 connection, 25 read-only, 28 authorization, 3D no such database, 40 rollback, 53 resources, 55 lock,
    57 operator, 58 system, XX internal.

    So is a missing table or column: the schema waits for `accepted migrate`.
    """
    return sqlstate[:2] in _OUTAGES or sqlstate in _NOT_MIGRATED


def _bound_socket(connection: "asyncpg.Connection[Any]", numbers: Mapping[str, int]) -> None:
    """Keepalive and user timeout of TCP, by the URL's parameters; `tcp_user_timeout` is in milliseconds."""
    transport = getattr(connection, "_transport", None)
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, numbers.get("keepalives", 1))
    for option, name, usual in _SOCKET_OPTIONS:
        sock.setsockopt(socket.IPPROTO_TCP, option, numbers.get(name) or usual)
