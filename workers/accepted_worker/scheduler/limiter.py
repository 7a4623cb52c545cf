"""The limiter: admits jobs of limited queues, as many as there is room for, in their order (docs/waiting.md).

Dying after the commit leaves rows that are admitted, unpublished and due: the relay publishes them. Any number of
limiters may run: each queue is one limiter's for the length of a transaction.
"""

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.rates import Pace
from accepted.domain.references import JobRef
from accepted.services.jobs.publishing import publish
from accepted.storage import limiter
from accepted.storage.db.engine import transaction
from accepted.storage.db.statements import Direct
from accepted.storage.limiter import Admitted, LockedQueue, Room
from accepted_worker.scheduler.limiter_notifications import APART, LimiterNotifications

MOST = 500
"""Rows admitted, or held again, in one transaction."""

HOLD = 10.0
"""Seconds for which admitted rows are this limiter's to publish, as the relay's."""

UNHEARD = 0.25
"""Seconds between polls while a row waits for a slot: a job that ends is notified, a worker that comes is not."""

IDLE = 1.0
"""Seconds between polls while nothing is held: notifications come sooner, but may be missed."""


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
        self._pause = IDLE
        self._holding = False
        self._for_an_end = False

    async def run_once(self) -> int:
        self._notifications.clear()
        self._pause, self._for_an_end = IDLE, False
        async with self._polls.statements() as conn:
            found = await limiter.poll(conn)
        self._holding = bool(found)
        done = 0
        for one in found:
            if one.unadmitted:
                done += await self._hold_unadmitted(one.queue)
            if one.waits:
                done += await self._admit(one.queue)
        return done

    def pause(self, done: int) -> float:
        return self._pause

    async def listen(self) -> None:
        """Hear of what is held, and of slots while something waits for one, until cancelled."""
        await self._notifications.listen()

    async def sleep(self, seconds: float) -> None:
        """For so long, or until a notification comes."""
        if self._holding:
            await self._notifications.wait_held(seconds, for_an_end=self._for_an_end)
        else:
            await self._notifications.wait(seconds)

    def _again_in(self, seconds: float) -> None:
        self._pause = min(self._pause, seconds)

    def _when_one_ends(self) -> None:
        self._for_an_end = True
        self._again_in(UNHEARD)

    async def _hold_unadmitted(self, queue: str) -> int:
        async with transaction(self._engine) as conn:
            done = await limiter.hold(conn, queue, MOST)
            await conn.commit()
        self._again_in(0.0 if done == MOST else APART)
        return done

    async def _admit(self, queue: str) -> int:
        async with transaction(self._engine) as conn:
            limits = await limiter.lock(conn, queue)
            if limits is None:
                self._again_in(APART)
                return 0
            refs = await self._admitted(conn, queue, limits)
            await self._broker.announce(conn, [queue] if refs else [])
            await conn.commit()
        if self._hold is not None and refs:
            await publish(self._engine, self._broker, refs, self.name)
        return len(refs)

    async def _admitted(self, conn: AsyncConnection, queue: str, limits: LockedQueue) -> list[JobRef]:
        """Admit what there is room for, and set the pause until the next poll."""
        keyed = limits.max_running_per_key is not None
        room = await limiter.room(conn, queue, self._lease_ttl, limits.counts_running)
        if room.leases and room.for_any < 0 and await limiter.take_back(conn, queue, self._lease_ttl, -room.for_any):
            self._again_in(0.0)
            return []
        left = room.left(limits)
        if left <= 0:
            self._when_one_ends()
            return []
        pace = None if limits.interval is None else Pace(limits.interval)
        ready = 0.0 if pace is None else pace.ready(limits.next_start)
        most = min(left, MOST) if pace is None else min(left, MOST, pace.allowed(ready, room.admitted))
        if most == 0:
            if pace is not None and ready <= 0:  # what was admitted and nobody has come for yet counts as starting now
                await limiter.pass_on(conn, queue, limits.last_key, limits.now, pace.interval)
            self._again_in(max(ready, APART))
            return []
        busy = room.admitted + (room.run or 0) if keyed else 0
        refs, last_key = await self._let_go(conn, queue, most, limits, room, steps=most + busy)
        started = len(refs)
        wait = None if pace is None else pace.after(ready, started)
        if started and (wait is not None or last_key != limits.last_key):
            await limiter.pass_on(conn, queue, last_key, limits.now, wait)
        if 0 < started < most or started == MOST:
            self._again_in(0.0)
        elif wait is not None:
            self._again_in(max(wait, APART))
        else:
            self._when_one_ends()
        return refs

    async def _let_go(
        self, conn: AsyncConnection, queue: str, most: int, limits: LockedQueue, room: Room, steps: int
    ) -> tuple[list[JobRef], str | None]:
        """Whatever comes first, for the slots of worker processes; then what those who wait for leases would take."""
        first, last_key = Admitted([], limits.last_key), limits.last_key
        if (slots := min(most, room.for_any)) > 0:
            first = await limiter.admit(conn, queue, slots, limits, steps, self._hold)
            last_key = first.last_key if first.refs else last_key
        if (leases := min(most - len(first.refs), room.for_wanted)) <= 0:
            return first.refs, last_key
        limits = msgspec.structs.replace(limits, last_key=last_key)
        then = await limiter.admit_wanted(conn, queue, leases, limits, steps, self._hold, self._lease_ttl)
        return [*first.refs, *then.refs], then.last_key if then.refs else last_key
