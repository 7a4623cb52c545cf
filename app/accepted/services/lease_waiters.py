"""Long polling for leases, at a cost to the ledger that does not grow with the number of clients that wait.

Requests for the same (tenant, key, queue, types) form a group. One claim serves the whole group: when a request joins,
when a notification arrives, and once a second. Claims run apart from the requests, so the result of a claim that has
committed is never lost: leases whose client has gone are handed back at once, and their attempts are not charged.
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
from accepted.concurrency import set_within
from accepted.correlation import apart
from accepted.domain.references import Lease
from accepted.errors import LedgerUnavailable
from accepted.services.jobs.claiming import LeasedJob, claim_leases
from accepted.services.leased_payloads import LeasedPayloads
from accepted.services.leases import MAX_LEASES, Leases
from accepted.storage import holding, workers
from accepted.storage.db.engine import reading, transaction
from accepted.storage.db.notifications import EVERYTHING, Listener
from accepted.storage.db.statements import Direct

POLL_EVERY = 1.0
"""Seconds between claims for one group when no notification arrives."""

DECISION = 1.0
"""Seconds that a request waits at least where jobs wait for room: the limiter admits for requests that it knows of, and
learns of this one from its first claim. It looks four times a second."""

POLL_DECISION = 0.2
"""Seconds between claims in that time."""

WAITING = "waiting "
"""What the name of a row in `workers` begins with that stands for waiting requests. What follows is the worker's."""

DEADLINE = 4.5
"""Seconds for a claim, so that a client gets 503 within 5 s when the ledger does not answer."""

log = structlog.get_logger(__name__)


class LeaseRequestKey(msgspec.Struct, frozen=True):
    """What a request asks for. `name` is the worker's name in the ledger; `types` None is any type."""

    tenant: str
    name: str
    queue: str
    types: tuple[str, ...] | None


Answer: TypeAlias = "asyncio.Future[list[LeasedJob]]"


class _Waiter(msgspec.Struct, frozen=True):
    limit: int
    since: float
    until: float
    answer: Answer

    def ends_at(self, least: float) -> float:
        """When its time is up, if it waits for `least` seconds or longer."""
        return max(self.until, self.since + least)


class _Group:
    """The requests that wait for the same key, first come, first served."""

    def __init__(self) -> None:
        self.worker_id: UUID = uuid4()
        self.reported = (0, float("-inf"))
        """The slots last reported to the ledger, and when (the event loop's time)."""
        self.notified = asyncio.Event()
        self.serving: asyncio.Task[None] | None = None
        self._waiters: deque[_Waiter] = deque()

    def add(self, waiter: _Waiter) -> None:
        self._waiters.append(waiter)
        self.notified.set()

    @property
    def wanted(self) -> int:
        """How many leases the requests that still wait would take."""
        self._waiters = deque(waiter for waiter in self._waiters if not waiter.answer.done())
        return sum(waiter.limit for waiter in self._waiters)

    def ends_at(self, least: float) -> float:
        """When the first of the requests is over; the event loop's time."""
        return min((waiter.ends_at(least) for waiter in self._waiters if not waiter.answer.done()), default=0.0)

    def give(self, jobs: list[LeasedJob]) -> list[LeasedJob]:
        """Answer the requests with `jobs`. Returns those that no request takes any more."""
        for waiter in self._waiters:
            if jobs and not waiter.answer.done():
                waiter.answer.set_result(jobs[: waiter.limit])
                jobs = jobs[waiter.limit :]
        return jobs

    def end(self, now: float, least: float = 0.0) -> None:
        """Answer the requests whose time is up with nothing, after `least` seconds at the earliest."""
        for waiter in self._waiters:
            if waiter.ends_at(least) <= now and not waiter.answer.done():
                waiter.answer.set_result([])

    def fail(self, error: Exception) -> None:
        for waiter in self._waiters:
            if not waiter.answer.done():
                waiter.answer.set_exception(error)


class LeaseWaiters:
    """All requests for leases that wait in one API process."""

    def __init__(
        self, engine: AsyncEngine, broker: Broker, url: str, held: Leases, payloads: LeasedPayloads, lease_ttl: float
    ) -> None:
        self._engine = engine
        self._held = held
        self._payloads = payloads
        self._report_every = lease_ttl / 3
        self._ledger = Direct(engine)
        self._groups: dict[LeaseRequestKey, _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = Listener(url, CHANNEL, self._on_notification) if broker.is_ledger else None
        self._listening: asyncio.Task[None] | None = None
        self._closed = False

    def wait(self, key: LeaseRequestKey, limit: int, seconds: float) -> Answer:
        """Up to `limit` leases as soon as there are any; none after `seconds`, or when the process stops.

        Raises `LedgerUnavailable`. A caller that does not take the answer gives it up.
        """
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        if self._closed:
            answer.set_result([])
            return answer
        group = self._groups.get(key) or self._new_group(key)
        group.add(_Waiter(limit, loop.time(), loop.time() + seconds, answer))
        if group.serving is None:
            group.serving = self._start(self._serve(key, group))
        return answer

    def _new_group(self, key: LeaseRequestKey) -> _Group:
        """Also forgets the groups that have been empty for a while."""
        before = asyncio.get_running_loop().time() - 3 * self._report_every
        old = [other for other, group in self._groups.items() if group.serving is None and group.reported[1] < before]
        for other in old:
            del self._groups[other]
        return self._groups.setdefault(key, _Group())

    def give_up(self, answer: Answer) -> None:
        """Nobody takes this answer any more: its leases are handed back, or never leased."""
        if not answer.cancel() and answer.exception() is None:
            self.hand_back(answer.result())

    def hand_back(self, jobs: Sequence[LeasedJob]) -> None:
        """Hand back leases that reached no client, in the background."""
        if jobs:
            log.info("leases_handed_back", count=len(jobs))
            self._start(self._hand_back([one.leased.lease for one in jobs]))

    def close(self) -> None:
        """Answer all with nothing: the process is stopping."""
        self._closed = True
        for group in self._groups.values():
            group.end(float("inf"))
            group.notified.set()

    async def aclose(self) -> None:
        """Close, wait until undelivered leases are handed back, and disconnect from the ledger."""
        self.close()
        if self._listening is not None:
            self._listening.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._ledger.close()

    async def _serve(self, key: LeaseRequestKey, group: _Group) -> None:
        """Claim for one group until no request waits in it."""
        self._listen()
        try:
            while wanted := group.wanted:
                group.notified.clear()
                jobs = await self._claim_in_time(key, min(wanted, MAX_LEASES))
                self.hand_back(group.give(jobs))
                if not jobs:
                    await self._report_slots(key, group, wanted)
                    least = await self._least(key.queue, group)
                    group.end(asyncio.get_running_loop().time(), least)
                    await self._pause(group, least)
        except Exception as error:
            group.fail(error)
            if not isinstance(error, LedgerUnavailable):
                log.exception("lease_claim_failed")
        finally:
            group.serving = None

    async def _claim_in_time(self, key: LeaseRequestKey, limit: int) -> list[LeasedJob]:
        """One claim. One that misses the deadline goes on alone, and its leases are handed back."""
        claiming = asyncio.ensure_future(self._claim(key, limit))
        done, _ = await asyncio.wait({claiming}, timeout=DEADLINE)
        if not done:
            self._start(self._hand_back_late(claiming))
            raise LedgerUnavailable("timeout")
        return claiming.result()

    async def _claim(self, key: LeaseRequestKey, limit: int) -> list[LeasedJob]:
        """Claim until there is a job whose payload fits, or none at all."""
        while claimed := await claim_leases(
            self._ledger, name=key.name, tenant=key.tenant, queue=key.queue, types=key.types, limit=limit
        ):
            for one in claimed:
                self._held.measurements.started(one.job, one.leased.waited)
            if fitting := await self._payloads.fitting(claimed):
                return fitting
        return []

    async def _hand_back_late(self, claiming: "asyncio.Future[list[LeasedJob]]") -> None:
        with contextlib.suppress(LedgerUnavailable):
            self.hand_back(await claiming)

    async def _report_slots(self, key: LeaseRequestKey, group: _Group, slots: int) -> None:
        """Tell the ledger that this queue has a worker, and how many leases it would take: the limiter needs both."""
        before, at = group.reported
        now = asyncio.get_running_loop().time()
        if slots <= before and now < at + self._report_every:
            return
        async with transaction(self._engine) as conn:
            name = WAITING + key.name
            await workers.heartbeat(
                conn, group.worker_id, name,
                slots=slots, queues=[key.queue], types=key.types, tenant=key.tenant,
            )  # fmt: skip
            await conn.commit()
        group.reported = (slots, now)

    async def _least(self, queue: str, group: _Group) -> float:
        """How long requests wait at least: not at all, unless the limiter may be about to admit a job for them."""
        now = asyncio.get_running_loop().time()
        if group.ends_at(0.0) > now or group.ends_at(DECISION) <= now:
            return 0.0
        async with reading(self._engine) as conn:
            return DECISION if await holding.waits_for_room(conn, queue) else 0.0

    async def _pause(self, group: _Group, least: float) -> None:
        left = min(group.ends_at(least) - asyncio.get_running_loop().time(), POLL_DECISION if least else POLL_EVERY)
        if left > 0:
            await set_within(left, group.notified)

    async def _hand_back(self, handed_back: list[Lease]) -> None:
        with contextlib.suppress(LedgerUnavailable):  # then they expire
            await self._held.hand_back(handed_back)

    def _listen(self) -> None:
        if self._listener is not None and self._listening is None:
            self._listening = asyncio.create_task(self._listener.run(), context=apart())

    def _on_notification(self, payload: str) -> None:
        queues = None if payload == EVERYTHING else set(payload.split(","))
        for key, group in self._groups.items():
            if queues is None or key.queue in queues:
                group.notified.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, context=apart())  # for many requests, not for the first
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
