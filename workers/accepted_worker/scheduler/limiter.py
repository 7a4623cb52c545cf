"""The limiter: admits jobs of limited queues, as many as there is room for, in their order (docs/waiting.md).

If it dies after its COMMIT, the admitted rows are unpublished and due: the relay publishes them. Any number of limiters
may run, because one of them locks a queue's row for the length of its transaction.
"""

import asyncio
import contextlib

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.broker.base import Broker
from accepted.containment import RowErrors
from accepted.domain.rates import Pace
from accepted.domain.references import JobRef
from accepted.services.jobs.publishing import publish
from accepted.storage import limiter, queues
from accepted.storage.db import notifications
from accepted.storage.db.engine import transaction
from accepted.storage.db.notifications import Listener
from accepted.storage.db.statements import Direct
from accepted.storage.jobs.outbox import HOLD
from accepted.storage.limiter import Admitted, LockedQueue, Room
from accepted.storage.queues import LIMITER_CHANNEL

BATCH_SIZE = 500
"""Rows in one transaction."""

UNHEARD = 0.25
"""Seconds between polls while a row waits for a slot: the end of a job is notified, a new worker is not."""

IDLE = 1.0
"""Seconds between polls while no row waits for room: notifications come sooner, but may be missed."""

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
        self._pause = IDLE
        self._anything_waits = False
        self._waits_for_end = False

    async def run_once(self) -> int:
        self._notifications.clear()
        self._pause, self._waits_for_end = IDLE, False
        async with self._polls.statements() as conn:
            found = await limiter.poll(conn)
        self._anything_waits = bool(found)
        done = 0
        for one in found:
            with self._errors.contained(one.queue):
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
            done = await queues.hold_unadmitted(conn, queue, BATCH_SIZE)
            await conn.commit()
        self._again_in(0.0 if done == BATCH_SIZE else APART)
        return done

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
        room = await limiter.room(conn, queue, self._lease_ttl, locked.counts_running)
        if room.leases and room.for_any < 0 and await limiter.take_back(conn, queue, self._lease_ttl, -room.for_any):
            self._again_in(0.0)
            return []
        left = room.left(locked)
        if left <= 0:
            self._again_when_one_ends()
            return []
        pace = None if locked.interval is None else Pace(locked.interval)
        ready = 0.0 if pace is None else pace.ready(locked.since_start)
        limit = min(left, BATCH_SIZE) if pace is None else min(left, BATCH_SIZE, pace.allowed(ready, room.admitted))
        if limit == 0:
            set_back = locked.since_start is not None and locked.since_start < 0  # the clock was
            if set_back or ready <= 0:  # rows that are admitted and not yet claimed count as starting now
                await limiter.pass_on(conn, queue, locked.last_key, locked.now, 0.0)
            self._again_in(max(ready, APART))
            return []
        busy = room.admitted + (room.run or 0) if locked.keyed else 0
        refs, last_key = await self._choose(conn, queue, limit, locked, room, steps=limit + busy)
        started = len(refs)
        counts = None if pace is None else pace.counts(ready, started)
        if started and (counts is not None or last_key != locked.last_key):
            await limiter.pass_on(conn, queue, last_key, locked.now, counts)
        if 0 < started < limit or started == BATCH_SIZE:
            self._again_in(0.0)
        elif pace is not None and counts is not None:
            self._again_in(max(counts + pace.interval, APART))
        else:
            self._again_when_one_ends()
        return refs

    async def _choose(
        self, conn: AsyncConnection, queue: str, limit: int, locked: LockedQueue, room: Room, steps: int
    ) -> tuple[list[JobRef], str | None]:
        """Admit any rows for the slots of worker processes, then rows that waiting lease requests can take.

        Returns their references, and the key that was served last.
        """
        first, last_key = Admitted([], locked.last_key), locked.last_key
        if (slots := min(limit, room.for_any)) > 0:
            first = await limiter.admit(conn, queue, slots, locked, room, steps, self._hold)
            last_key = first.last_key if first.refs else last_key
        if (leases := min(limit - len(first.refs), room.for_wanted)) <= 0:
            return first.refs, last_key
        locked = msgspec.structs.replace(locked, last_key=last_key)
        then = await limiter.admit(conn, queue, leases, locked, room, steps, self._hold, leases=self._lease_ttl)
        return [*first.refs, *then.refs], then.last_key if then.refs else last_key


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
        if not await self._notified_within(seconds):
            self._ends_wanted.clear()
            self._ends_unwanted.set()

    async def wait_for_room(self, seconds: float, *, until_end: bool) -> None:
        """A row waits for room: return after `seconds`, or on a notification; with `until_end` also of an ended job."""
        self._until_end = until_end
        if until_end:
            self._ends_unwanted.clear()
            self._ends_wanted.set()
        await asyncio.sleep(min(seconds, APART))
        await self._notified_within(seconds - APART)

    async def _notified_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._notified.wait()
        return self._notified.is_set()

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
