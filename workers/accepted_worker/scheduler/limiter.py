"""The limiter: admits jobs of limited queues, as many as there is room for, in their order (docs/waiting.md).

A queue without limits and priorities it makes plain again.

If it dies after its COMMIT, the admitted rows are unpublished and due: the relay publishes them. Any number of limiters
may run, because one of them locks a queue's row for the length of its transaction.
"""

import asyncio

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.broker.base import Broker
from accepted.concurrency import set_within
from accepted.containment import RowErrors
from accepted.domain.rates import Pace
from accepted.domain.references import JobRef
from accepted.services import admission
from accepted.services.jobs.publishing import publish
from accepted.storage import holding, limiter
from accepted.storage import room as rooms
from accepted.storage.db import notifications
from accepted.storage.db.engine import transaction
from accepted.storage.db.notifications import Listener
from accepted.storage.db.statements import Direct
from accepted.storage.jobs.outbox import HOLD
from accepted.storage.limiter import LockedQueue
from accepted.storage.queues import LIMITER_CHANNEL

BATCH_SIZE = 500
"""Rows in one transaction."""

UNHEARD = 0.25
"""Seconds between polls while a row waits for a slot: the end of a job is notified, a new worker is not."""

IDLE = 1.0
"""Seconds between polls while no row waits for room: notifications come sooner, but may be missed."""

LATE = 10.0
"""Seconds for which rows are looked for that were put on hold by statements older than the change of their queue: twice
the deadline of a submission."""

APART = 0.015
"""Least seconds between polls while a row waits for room: notifications may come as fast as jobs."""


class Limiter:
    """Admits for one queue after another, each in a transaction of its own."""

    name = "limiter"

    def __init__(self, engine: AsyncEngine, broker: Broker, url: str, lease_ttl: float, polls: Direct) -> None:
        self._engine = engine
        self._polls = polls
        self._broker = broker
        self._lease_ttl = lease_ttl
        self._hold = None if broker.is_ledger else HOLD
        self._notifications = LimiterNotifications(url)
        self._errors = RowErrors(self.name)
        self._made_plain: dict[str, float] = {}
        self._pause = IDLE
        self._anything_waits = False
        self._waits_for_end = False

    async def run_once(self) -> int:
        self._notifications.clear()
        self._pause, self._waits_for_end = IDLE, False
        async with self._polls.statements() as conn:
            found = await limiter.poll(conn)
        self._anything_waits = any(one.unadmitted or one.waits for one in found)
        done = await self._release_late()
        for one in found:
            with self._errors.contained(one.queue):
                if one.may_be_plain and await self._make_plain(one.queue):
                    continue
                done += await self._hold_unadmitted(one.queue) if one.unadmitted else 0
                done += await self._admit(one.queue) if one.waits else 0
        return done

    def pause(self, done: int) -> float:
        return self._pause

    async def listen(self) -> None:
        await self._notifications.listen()

    async def sleep(self, seconds: float) -> None:
        if self._anything_waits:
            await self._notifications.wait_for_room(seconds, until_end=self._waits_for_end)
        else:
            await self._notifications.wait(seconds)

    def _again_in(self, seconds: float) -> None:
        self._pause = min(self._pause, seconds)

    def _again_when_one_ends(self) -> None:
        self._waits_for_end = True
        self._again_in(UNHEARD)

    async def _hold_unadmitted(self, queue: str) -> int:
        """Put rows on hold that were published before the limit was set, or before the pause."""
        async with transaction(self._engine) as conn:
            done = await holding.hold_unadmitted(conn, queue, BATCH_SIZE)
            await conn.commit()
        self._again_in(0.0 if done == BATCH_SIZE else APART)
        return done

    async def _make_plain(self, queue: str) -> bool:
        """Let a queue go whose limits and priorities are gone. False: others are at work on it, or one came back."""
        async with transaction(self._engine) as conn:
            if done := await limiter.lock(conn, queue) is not None and await holding.make_plain(conn, queue):
                await conn.commit()
                self._made_plain[queue] = asyncio.get_running_loop().time()
        return done

    async def _release_late(self) -> int:
        """Release what was put on hold by statements that began before their queue was made plain."""
        released, now = 0, asyncio.get_running_loop().time()
        self._made_plain = {queue: at for queue, at in self._made_plain.items() if now < at + LATE}
        for queue in self._made_plain:
            with self._errors.contained(queue):
                async with transaction(self._engine) as conn:
                    released += await holding.release(conn, queue)
                    await conn.commit()
        return released

    async def _admit(self, queue: str) -> int:
        async with transaction(self._engine) as conn:
            locked = await limiter.lock(conn, queue)
            if locked is None:
                self._again_in(APART)
                return 0
            refs = await self._admitted(conn, queue, locked)
            await self._broker.announce(conn, [queue] if refs else [])
            await conn.commit()
        if self._hold is not None and refs:
            await publish(self._engine, self._broker, refs, self.name)
        return len(refs)

    async def _admitted(self, conn: AsyncConnection, queue: str, locked: LockedQueue) -> list[JobRef]:
        """Admit what there is room for, and set the pause until the next poll."""
        room = await rooms.room(conn, queue, self._lease_ttl, locked.counts_running)
        idle = room.idle if room.leases and locked.counts_admitted else 0
        if idle and await rooms.take_back(conn, queue, self._lease_ttl, room):
            self._again_in(0.0)
            return []
        left = locked.left(room)
        if left <= 0:
            self._again_when_one_ends()
            return []
        pace = None if locked.interval is None else Pace(locked.interval)
        ready = 0.0 if pace is None else pace.ready(locked.since_start)
        limit = min(left, BATCH_SIZE) if pace is None else min(left, BATCH_SIZE, pace.allowed(ready, room.admitted))
        if limit == 0:
            set_back = locked.since_start is not None and locked.since_start < 0  # the clock was
            if set_back or ready <= 0:  # rows that are admitted and not yet claimed count as starting now
                await limiter.pass_on(conn, queue, locked.turn, locked.now, 0.0)
            self._again_in(max(ready, APART))
            return []
        served = await admission.serve(conn, queue, limit, locked, room, self._hold, self._lease_ttl)
        started = len(served.refs)
        counts = None if pace is None or not started else pace.counts(ready, started)
        if counts is not None or served.turn != locked.turn:
            await limiter.pass_on(conn, queue, served.turn, locked.now, counts)
        if served.more or 0 < started < served.possible or started == BATCH_SIZE:
            self._again_in(0.0)
        elif pace is not None and counts is not None:
            self._again_in(max(counts + pace.interval, APART))
        else:
            self._again_when_one_ends()
        if served.overlooked:
            self._again_in(APART)
        return served.refs


class LimiterNotifications:
    """Wakes the limiter: a row waits for room, a limit has changed, or a job has ended.

    There are two channels. That of ended jobs is busy, so it is listened to only while a row waits for a slot.
    """

    def __init__(self, url: str) -> None:
        self._changes = Listener(url, LIMITER_CHANNEL, lambda _: self._notified.set())
        self._ends = Listener(url, notifications.CHANGES, self._on_end)
        self._notified = asyncio.Event()
        self._until_end = False
        self._ends_wanted = asyncio.Event()
        self._ends_unwanted = asyncio.Event()

    def clear(self) -> None:
        """Forget the notifications so far: a poll begins."""
        self._notified.clear()

    async def listen(self) -> None:
        """Listen until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._changes.run())
            group.create_task(self._listen_to_ends())

    async def wait(self, seconds: float) -> None:
        """No row waits for room: return after `seconds`, or on a notification."""
        self._until_end = False
        if not await set_within(max(seconds, 0), self._notified):
            self._ends_wanted.clear()
            self._ends_unwanted.set()

    async def wait_for_room(self, seconds: float, *, until_end: bool) -> None:
        """A row waits for room: return after `seconds`, or on a notification; with `until_end` also of an ended job."""
        self._until_end = until_end
        if until_end:
            self._ends_unwanted.clear()
            self._ends_wanted.set()
        await asyncio.sleep(min(seconds, APART))
        await set_within(max(seconds - APART, 0), self._notified)

    async def _listen_to_ends(self) -> None:
        while True:
            await self._ends_wanted.wait()
            listening = asyncio.create_task(self._ends.run())
            try:
                await self._ends_unwanted.wait()
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    def _on_end(self, _: str) -> None:
        if self._until_end:
            self._notified.set()
