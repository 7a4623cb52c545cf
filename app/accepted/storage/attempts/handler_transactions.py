"""Transactions lent to handlers: opened behind the fence, bounded by their attempt, ended by the worker alone.

They have connections of their own. Those of the worker are bounded in seconds, which no handler should be; and a
handler that waits must not keep the worker from its heartbeat.
"""

import asyncio
from typing import Any, NoReturn
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.domain.failures import LeaseLost
from accepted.domain.lease import Lease
from accepted.errors import LedgerUnavailable
from accepted.storage.attempts import fence
from accepted.storage.attempts.fence import OPEN_LEASE
from accepted.storage.db.engine import create_engine, is_unavailable

AT_ONCE = 10
"""Transactions of one worker at a time, each a connection to PostgreSQL; other attempts wait for theirs."""

LONGEST = 3600.0
"""Seconds for which a transaction may be idle, or wait for one statement or lock, if its attempt has longer."""

_BEGIN = text(f"""
WITH lease AS MATERIALIZED ({OPEN_LEASE}), bounds AS MATERIALIZED (
    SELECT set_config(name, :bound, true)
    FROM unnest(ARRAY['statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout']) AS name
), twins AS MATERIALIZED (
    SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a, lease
    WHERE a.application_name = :name AND a.usename = current_user AND a.datname = current_database()
      AND a.pid <> pg_backend_pid()
)
SELECT (SELECT count(*) FROM lease), (SELECT count(*) FROM bounds), (SELECT count(*) FROM twins),
       set_config('application_name', :name, true)
""")


class LentConnection(AsyncConnection):
    """What the handler gets: everything that a connection can do, but end the transaction."""

    __slots__ = ()

    async def commit(self) -> NoReturn:
        raise _refused("commits with the job's success")

    async def rollback(self) -> NoReturn:
        raise _refused("is rolled back when the attempt fails: raise")

    async def close(self) -> NoReturn:
        raise _refused("ends with the attempt")


class Lender:
    """The connections of one worker's handlers. Nothing is connected before the first transaction."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, AT_ONCE, command_timeout=None)
        self._free = asyncio.Semaphore(AT_ONCE)

    async def begin(self, lease: Lease, seconds: float) -> "Lent":
        """A transaction for this attempt, which may take `seconds`.

        Ends that of an earlier attempt of the same job, if a worker that hangs holds it still, with its locks.
        Raises `LeaseLost` if the lease does not hold, and `LedgerUnavailable`.
        """
        await self._free.acquire()
        lent = Lent(self._engine, self._free)
        try:
            await lent.begin(lease, seconds)
        except BaseException as error:
            await lent.abandon()
            if isinstance(error, SQLAlchemyError | OSError | TimeoutError) and is_unavailable(error):
                raise LedgerUnavailable(type(error).__name__) from error
            raise
        return lent

    async def close(self) -> None:
        await self._engine.dispose()


class Lent:
    """One transaction, until it is committed with `commit` and given back, or abandoned."""

    def __init__(self, engine: AsyncEngine, free: asyncio.Semaphore) -> None:
        self._engine = engine
        self._free = free
        self.own = AsyncConnection(engine)
        """The worker's view of the connection, which may commit."""
        self._over = False

    @property
    def lent(self) -> LentConnection:
        """The handler's view."""
        return LentConnection(self._engine, self.own.sync_connection)

    async def begin(self, lease: Lease, seconds: float) -> None:
        await self.own.start()
        bound = str(round(min(seconds, LONGEST) * 1000))
        values: dict[str, Any] = {**fence.values(lease), "bound": bound, "name": _name(lease.job_id)}
        if not (await self.own.execute(_BEGIN, values)).one()[0]:
            raise LeaseLost

    async def give_back(self) -> None:
        """After the commit."""
        if not self._over:
            self._over = True
            self._free.release()
            await self.own.close()

    async def abandon(self) -> None:
        """Nothing of it happened. The connection is dropped, whatever state it is in; PostgreSQL rolls back."""
        if not self._over:
            self._over = True
            self._free.release()
            if self.own.sync_connection is not None:
                await self.own.invalidate()
                await self.own.close()


def _name(job_id: UUID) -> str:
    """How PostgreSQL shows the transaction of a job, whatever its attempt (`application_name`, 63 bytes)."""
    return f"accepted job {job_id}"


def _refused(why: str) -> RuntimeError:
    return RuntimeError(f"not for handlers: this transaction {why}")
