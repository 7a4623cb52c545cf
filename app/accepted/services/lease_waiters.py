"""Handing out leases to those who wait for them, at a cost to the ledger that does not grow with their number.

Who asks for the same (tenant, key, queue, types) waits in one line, and one look at the ledger is for all of it: when
somebody joins, when a hint comes, and once a second. Looks are made apart from requests, so one that commits is
heard of: leases whose client has gone are handed back at once, unburned.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.broker.postgres import CHANNEL
from accepted.domain.job import Job
from accepted.domain.lease import Lease
from accepted.errors import LedgerUnavailable
from accepted.services.leases import Leases
from accepted.storage import leases, workers
from accepted.storage.db.direct import Direct
from accepted.storage.db.engine import transaction
from accepted.storage.db.listening import EVERYTHING, Listener
from accepted.storage.jobs.reading import jobs_by_id
from accepted.storage.leases import Leased

POLL = 1.0
"""Seconds between looks for one line when no hint comes."""

DEADLINE = 4.5
"""Seconds for a look. A client hears 503 within 5 s when the ledger does not answer."""

MOST = 100
"""Leases in one answer, and from one look."""

log = structlog.get_logger(__name__)


class Asked(msgspec.Struct, frozen=True):
    """What a line is for. `name` is the worker's in the ledger; `types` None is any type."""

    tenant: str
    name: str
    queue: str
    types: tuple[str, ...] | None


class Given(msgspec.Struct, frozen=True):
    """A lease, and its job as it is then."""

    leased: Leased
    job: Job


Answer: TypeAlias = "asyncio.Future[list[Given]]"


class _Waiter(msgspec.Struct, frozen=True):
    most: int
    until: float
    answer: Answer


class _Line:
    """Who waits for one thing, first come first served."""

    def __init__(self) -> None:
        self.worker_id: UUID = uuid4()
        self.attended = (0, float("-inf"))
        self.hint = asyncio.Event()
        self.looking: asyncio.Task[None] | None = None
        self._waiting: deque[_Waiter] = deque()

    def add(self, waiter: _Waiter) -> None:
        self._waiting.append(waiter)
        self.hint.set()

    @property
    def wanted(self) -> int:
        """How many leases those who still wait would take."""
        self._waiting = deque(waiter for waiter in self._waiting if not waiter.answer.done())
        return sum(waiter.most for waiter in self._waiting)

    @property
    def until(self) -> float:
        return min((waiter.until for waiter in self._waiting), default=0.0)

    def give(self, given: list[Given]) -> list[Given]:
        """Returns what nobody was there for any more."""
        for waiter in self._waiting:
            if given and not waiter.answer.done():
                waiter.answer.set_result(given[: waiter.most])
                given = given[waiter.most :]
        return given

    def end(self, now: float) -> None:
        """Those whose time is up go away with nothing."""
        for waiter in self._waiting:
            if waiter.until <= now and not waiter.answer.done():
                waiter.answer.set_result([])

    def fail(self, error: Exception) -> None:
        for waiter in self._waiting:
            if not waiter.answer.done():
                waiter.answer.set_exception(error)


class Desk:
    """One for each API process."""

    def __init__(self, engine: AsyncEngine, broker: Broker, url: str, held: Leases, lease_ttl: float) -> None:
        self._engine = engine
        self._held = held
        self._attend_every = lease_ttl / 3
        self._ledger = Direct(engine)
        self._lines: dict[Asked, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = Listener(url, CHANNEL, self._heard) if broker.handoff is None else None
        self._listening: asyncio.Task[None] | None = None
        self._closed = False

    def ask(self, asked: Asked, most: int, wait: float) -> Answer:
        """Up to `most` leases as soon as there are any; none after `wait` seconds, or when the process stops.

        Raises `LedgerUnavailable`. Whoever cancels it has gone: nothing is lost by that.
        """
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        if self._closed:
            answer.set_result([])
            return answer
        line = self._lines.get(asked) or self._open(asked)
        line.add(_Waiter(most, loop.time() + wait, answer))
        if line.looking is None:
            line.looking = self._start(self._serve(asked, line))
        return answer

    def _open(self, asked: Asked) -> _Line:
        """A new line; those that nobody has waited in for long are forgotten."""
        before = asyncio.get_running_loop().time() - 3 * self._attend_every
        old = [key for key, line in self._lines.items() if line.looking is None and line.attended[1] < before]
        for key in old:
            del self._lines[key]
        return self._lines.setdefault(asked, _Line())

    def hand_back(self, given: Sequence[Given]) -> None:
        """These leases reached nobody."""
        if given:
            log.info("leases_handed_back", count=len(given))
            self._start(self._hand_back([one.leased.lease for one in given]))

    def close(self) -> None:
        """Nobody waits any longer: the process is stopping."""
        self._closed = True
        for line in self._lines.values():
            line.end(float("inf"))
            line.hint.set()

    async def aclose(self) -> None:
        """Hand back what nobody is there for, and let go of the ledger."""
        self.close()
        if self._listening is not None:
            self._listening.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._ledger.close()

    async def _serve(self, asked: Asked, line: _Line) -> None:
        """Look for one line until nobody waits in it."""
        self._listen()
        try:
            while wanted := line.wanted:
                line.hint.clear()
                given = await self._look(asked, min(wanted, MOST))
                self.hand_back(line.give(given))
                if not given:
                    await self._attend(asked, line, wanted)
                    line.end(asyncio.get_running_loop().time())
                    await self._pause(line)
        except Exception as error:
            line.fail(error)
            if not isinstance(error, LedgerUnavailable):
                log.exception("lease_look_failed")
        finally:
            line.looking = None

    async def _look(self, asked: Asked, most: int) -> list[Given]:
        """One claim. If it takes too long it goes on alone, and what comes of it is handed back."""
        claiming = asyncio.ensure_future(self._claim(asked, most))
        done, _ = await asyncio.wait({claiming}, timeout=DEADLINE)
        if not done:
            self._start(self._disown(claiming))
            raise LedgerUnavailable("timeout")
        return claiming.result()

    async def _claim(self, asked: Asked, most: int) -> list[Given]:
        async with self._ledger.transaction() as conn:
            leased = await leases.claim(
                conn, name=asked.name, tenant=asked.tenant, queue=asked.queue, types=asked.types, most=most
            )
            jobs = await jobs_by_id(conn, [one.lease.job_id for one in leased]) if leased else {}
            await conn.execute("COMMIT")
        return [Given(one, jobs[one.lease.job_id]) for one in leased]

    async def _disown(self, claiming: "asyncio.Future[list[Given]]") -> None:
        with contextlib.suppress(LedgerUnavailable):
            self.hand_back(await claiming)

    async def _attend(self, asked: Asked, line: _Line, slots: int) -> None:
        """Let the ledger know that this queue is served, and how many leases would be taken: limits ask for it."""
        before, at = line.attended
        now = asyncio.get_running_loop().time()
        if slots <= before and now < at + self._attend_every:
            return
        async with transaction(self._engine) as conn:
            name = f"waiting {asked.name}"
            await workers.heartbeat(
                conn, line.worker_id, name,
                slots=slots, queues=[asked.queue], types=asked.types, tenant=asked.tenant,
            )  # fmt: skip
            await conn.commit()
        line.attended = (slots, now)

    async def _pause(self, line: _Line) -> None:
        left = min(line.until - asyncio.get_running_loop().time(), POLL)
        if left > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await line.hint.wait()

    async def _hand_back(self, given: list[Lease]) -> None:
        with contextlib.suppress(LedgerUnavailable):  # then they run out
            await self._held.hand_back(given)

    def _listen(self) -> None:
        if self._listener is not None and self._listening is None:
            self._listening = asyncio.create_task(self._listener.run())

    def _heard(self, payload: str) -> None:
        named = None if payload == EVERYTHING else set(payload.split(","))
        for asked, line in self._lines.items():
            if named is None or asked.queue in named:
                line.hint.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
