"""The transactions of handlers: begun with the fence, limited by the attempt's timeout, ended by the worker.

They have connections of their own, because the worker's have a timeout of seconds, and because a handler that waits
must not delay a heartbeat.
"""

import asyncio
from typing import NoReturn
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.domain.failures import LeaseLost
from accepted.domain.references import Lease
from accepted.errors import LedgerUnavailable
from accepted.storage.attempts.claims import OPEN_LEASE, lease_values
from accepted.storage.db.engine import SEARCH_PATH, create_engine, is_unavailable
from accepted.storage.db.statements import Statement

AT_ONCE = 10
"""Transactions of one worker at a time, each on a connection of its own; other attempts wait."""

LONGEST = 3600.0
"""Seconds that a transaction may be idle, or wait for one statement or lock, however long its attempt may take."""

_BEGIN = Statement(f"""
WITH lease AS MATERIALIZED ({OPEN_LEASE}), bounds AS MATERIALIZED (
    SELECT set_config(name, :bound, true)
    FROM unnest(ARRAY['statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout']) AS name
), twins AS MATERIALIZED (
    SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a, lease
    WHERE a.application_name = :name AND a.usename = current_user AND a.datname = current_database()
      AND a.pid <> pg_backend_pid()
)
SELECT (SELECT count(*) FROM lease) AS leases, (SELECT count(*) FROM bounds) AS bounds,
       (SELECT count(*) FROM twins) AS twins, set_config('application_name', :name, true) AS name,
       set_config('search_path', (SELECT reset_val FROM pg_settings WHERE name = 'search_path'), true) AS search_path
""")
"""The last value is the search_path of the role or database: the handler's statements mean its own tables, not ours."""

_CHECK_DEFERRED = Statement("SET CONSTRAINTS ALL IMMEDIATE")
"""Fires the deferred triggers of the handler's tables while the search_path is still theirs."""

_OUR_TABLES = Statement(f"SET LOCAL search_path TO {SEARCH_PATH}")

_AS_NEW = f"""
CLOSE ALL; RESET SESSION AUTHORIZATION; RESET ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP;
SET search_path TO {SEARCH_PATH}
"""
"""Does what DISCARD ALL does, but keeps the prepared statements."""


class HandlerConnection(AsyncConnection):
    """The connection that a handler gets. It does everything but end the transaction."""

    __slots__ = ()

    async def commit(self) -> NoReturn:
        raise _refused("commits with the job's success")

    async def rollback(self) -> NoReturn:
        raise _refused("is rolled back when the attempt fails: raise")

    async def close(self) -> NoReturn:
        raise _refused("ends with the attempt")


class HandlerTransactions:
    """Begins the transactions of one worker's handlers. Connects with the first one."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, AT_ONCE, command_timeout=None)
        self._free = asyncio.Semaphore(AT_ONCE)

    async def begin(self, lease: Lease, seconds: float) -> "HandlerTransaction":
        """Begin a transaction for an attempt with a timeout of `seconds`.

        Ends the transaction of an earlier attempt of the same job, which a hanging worker may still have open, with its
        locks. Raises `LeaseLost` if the lease is not valid, and `LedgerUnavailable`.
        """
        await self._free.acquire()
        transaction = HandlerTransaction(self._engine, self._free)
        try:
            await transaction.begin(lease, seconds)
        except BaseException as error:
            await transaction.abandon()
            if isinstance(error, SQLAlchemyError | OSError | TimeoutError) and is_unavailable(error):
                raise LedgerUnavailable(type(error).__name__) from error
            raise
        return transaction

    async def close(self) -> None:
        await self._engine.dispose()


class HandlerTransaction:
    """One transaction. The worker commits `worker_connection` and calls `give_back`, or calls `abandon`."""

    def __init__(self, engine: AsyncEngine, free: asyncio.Semaphore) -> None:
        self._engine = engine
        self._free = free
        self.worker_connection = AsyncConnection(engine)
        """The worker's view of the connection: it can commit."""
        self._over = False

    @property
    def handler_connection(self) -> HandlerConnection:
        """The handler's view of the connection."""
        return HandlerConnection(self._engine, self.worker_connection.sync_connection)

    async def begin(self, lease: Lease, seconds: float) -> None:
        await self.worker_connection.start()
        bound = str(round(min(seconds, LONGEST) * 1000))
        begun = await _BEGIN.first(self.worker_connection, **lease_values(lease), bound=bound, name=_name(lease.job_id))
        if begun is None or not begun["leases"]:
            raise LeaseLost

    async def for_settlement(self) -> AsyncConnection:
        """The worker's view, with our tables in its search_path again, whatever the handler has set.

        Raises what the handler's deferred constraints raise.
        """
        await _CHECK_DEFERRED.run(self.worker_connection)
        await _OUR_TABLES.run(self.worker_connection)
        return self.worker_connection

    async def give_back(self) -> None:
        """After the commit. What the handler has set for its session does not reach the next transaction."""
        if not self._over:
            driver = (await self.worker_connection.get_raw_connection()).driver_connection
            assert driver is not None
            await driver.execute(_AS_NEW)
            self._over = True
            self._free.release()
            await self.worker_connection.close()

    async def abandon(self) -> None:
        """Drop the connection, whatever its state: PostgreSQL rolls back."""
        if not self._over:
            self._over = True
            self._free.release()
            if self.worker_connection.sync_connection is not None:
                await self.worker_connection.invalidate()
                await self.worker_connection.close()


def _name(job_id: UUID) -> str:
    """The `application_name` of a job's transaction, the same for all attempts. PostgreSQL keeps 63 bytes."""
    return f"accepted job {job_id}"


def _refused(why: str) -> RuntimeError:
    return RuntimeError(f"not for handlers: this transaction {why}")
