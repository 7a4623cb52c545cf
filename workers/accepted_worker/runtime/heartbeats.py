"""The heartbeats of a worker process. A thread sends them, with an event loop and a connection of its own.

So a handler that blocks the worker's event loop loses no lease, neither its own nor those of the jobs beside it. The
thread watches that loop (`accepted_worker.runtime.loop_watchdog`) and writes into the heartbeat what blocks it. Past a
limit it ends the process, after it has committed who is charged: the attempt that blocks, and no other. If no attempt
does, it sends no more heartbeats until the loop turns again: the leases expire.

C code that holds the interpreter, and SIGSTOP, stop this thread as well. Then too the leases expire.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import logs
from accepted.broker.base import Broker
from accepted.concurrency import set_within
from accepted.errors import LedgerUnavailable
from accepted.services.jobs.crashes import charge_culprit
from accepted.storage.db.engine import RETRY_SECONDS, engine_beside, transaction
from accepted_worker.attempt.handler_call import CalledAttempt
from accepted_worker.runtime.lane import Lane
from accepted_worker.runtime.loop_watchdog import LOOK_SECONDS, Blocking, LoopWatchdog

STOP_SECONDS = 1.0
"""Seconds for the thread to end. It may be in the middle of a statement of a ledger that does not answer."""

log = structlog.get_logger(__name__)


class Heartbeats:
    """Sends the heartbeats of `lanes` three times in each `lease_ttl`.

    `blocked_limit`: seconds for which one attempt may block the worker's event loop; None: any number.
    """

    def __init__(
        self, engine: AsyncEngine, broker: Broker, lanes: Sequence[Lane], lease_ttl: float, blocked_limit: float | None
    ) -> None:
        self._engine = engine
        self._broker = broker
        self._lanes = lanes
        self._every = lease_ttl / 3
        self._limit = blocked_limit
        self._due = asyncio.Event()
        self._sending = asyncio.Lock()
        self._withheld = False

    @contextlib.asynccontextmanager
    async def sent(self) -> AsyncIterator[None]:
        """Meanwhile heartbeats are sent, and the event loop that calls this is watched."""
        ended = asyncio.Event()
        end = partial(asyncio.get_running_loop().call_soon_threadsafe, ended.set)
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._run(LoopWatchdog()))
        threading.Thread(target=_complete, args=(loop, task, end), name="heartbeats", daemon=True).start()
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError, TimeoutError):  # it has ended, or will not in time
                loop.call_soon_threadsafe(task.cancel)
                async with asyncio.timeout(STOP_SECONDS):
                    await ended.wait()

    async def _run(self, watchdog: LoopWatchdog) -> None:
        engine = engine_beside(self._engine)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(engine, watchdog))
                group.create_task(self._watch(engine, watchdog))
        finally:
            await engine.dispose()

    async def _send(self, engine: AsyncEngine, watchdog: LoopWatchdog) -> None:
        while True:
            async with self._sending:
                if not self._withheld:
                    await self._beat(engine, watchdog.blocking)
            await set_within(self._every, self._due)
            self._due.clear()

    async def _beat(self, engine: AsyncEngine, blocking: Blocking | None) -> None:
        blocked = None if blocking is None else msgspec.json.encode(blocking.told).decode()
        with _tried("heartbeats"):
            async with transaction(engine) as conn:
                for lane in self._lanes:
                    await lane.beat(conn, blocked)
                await conn.commit()

    async def _watch(self, engine: AsyncEngine, watchdog: LoopWatchdog) -> None:
        known: Blocking | None = None
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            watchdog.look()
            if watchdog.blocking is not known:
                known = watchdog.blocking
                self._withheld = False
                self._due.set()
            if known is not None and self._limit is not None and known.seconds >= self._limit and not self._withheld:
                await self._give_up(engine, watchdog, known)

    async def _give_up(self, engine: AsyncEngine, watchdog: LoopWatchdog, blocking: Blocking) -> None:
        """Send no more heartbeats, or the rows that the charge deletes would be there again."""
        self._withheld = True
        log.error("loop_blocked_too_long", limit=self._limit, **blocking.told)
        if blocking.attempt is None:
            return
        async with self._sending:
            while watchdog.blocking is blocking:
                if await self._charge(engine, blocking, blocking.attempt):
                    logs.flush()
                    os._exit(os.EX_SOFTWARE)
                await asyncio.sleep(RETRY_SECONDS)
                watchdog.look()

    async def _charge(self, engine: AsyncEngine, blocking: Blocking, culprit: CalledAttempt) -> bool:
        """Whether it is committed that `culprit` is charged, and that the jobs beside it go back."""
        why = f"blocked the event loop of its worker for {blocking.seconds:.0f} s at {blocking.where}"
        with _tried("watchdog"):
            async with transaction(engine) as conn:
                await charge_culprit(conn, self._broker, [lane.id for lane in self._lanes], culprit.lease, why)
                await conn.commit()
            return True
        return False


@contextlib.contextmanager
def _tried(loop: str) -> Iterator[None]:
    """Log what goes wrong. It is tried again."""
    try:
        yield
    except LedgerUnavailable as error:
        logs.outage("ledger_unavailable", error)
    except Exception:
        log.exception("worker_loop_failed", loop=loop)


def _complete(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]", end: Callable[[], object]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    with contextlib.suppress(RuntimeError):  # nobody waits any more
        end()
