"""The relay publishes what is due; the reconciler has it publish again what the broker has lost.

Both find rows by their state, never by a cursor: a row that commits late has an early id all the same.
"""

import asyncio
import time
from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.concurrency import set_within
from accepted.containment import RowErrors
from accepted.domain.references import JobRef
from accepted.services.jobs.publishing import publish
from accepted.storage.db import notifications
from accepted.storage.db.engine import reading, transaction
from accepted.storage.db.statements import Direct
from accepted.storage.jobs import outbox
from accepted.storage.jobs.outbox import HOLD

BATCH_SIZE = 500
"""References in a round: one commit to take them, one round of confirms, one commit to mark them."""

LONGEST_PAUSE = 0.2
"""Seconds. A row of which the relay does not know (a retry, a webhook, a short delay) waits no longer than this, well
within the 250 ms by which a delay may be late. Polls are most of what an idle scheduler costs."""

BROKER_AWAY = 1.0
"""Seconds until the next try while the broker is away. If it is there and refuses one queue, the others go on."""

QUICK = 0.002
SEARCH_SHARE = 0.05
"""The relay looks for due rows of any age, which takes less than `QUICK` seconds. But while somebody holds a
transaction open, such a look passes every row that was published since. It then takes no more than this share of the
relay's time, and the looks in between begin where the last one has found the first row."""

COMMITS_WITHIN = timedelta(seconds=1)
"""A row is due by the time when its transaction began, and found when that has committed. One that takes longer than
this is found by a look for rows of any age."""

RECONCILE_EVERY = 10.0
RECONCILE_AT_LEAST_EVERY = 20.0
"""Seconds between two rounds: the latter while a round takes long, which is when many rows are gone that PostgreSQL
keeps for somebody's transaction."""

SETTLED = 15.0
"""Seconds after which a published reference is either on its queue or claimed. With `RECONCILE_EVERY` and the relay's
round, the references of a wiped queue are back well within the minute that the contract gives."""

PUBLISH_AGAIN = 10_000
"""Rows of a queue that are published again in one round."""

STALE = 1000
"""A queue that no worker consumes is cleared when it has more stale references than this, and than good ones. The good
ones are published again, which then costs less than clearing saves."""

log = structlog.get_logger(__name__)


class Relay:
    """Publishes outbox rows that are due and unpublished, also those whose submitter died."""

    name = "relay"

    def __init__(self, engine: AsyncEngine, broker: Broker, polls: Direct) -> None:
        self._engine = engine
        self._polls = polls
        self._broker = broker
        self._next_due: float | None = None
        self._since: datetime | None = None
        self._look_for_all_at = 0.0
        self._broker_away = False
        self._woken = asyncio.Event()

    async def run_once(self) -> int:
        self._woken.clear()
        refs = await self._take()
        done = await publish(self._engine, self._broker, refs, self.name) if refs else 0
        self._broker_away = bool(refs) and not done and await self._broker.check() != "ok"
        return done

    def pause(self, done: int) -> float:
        if self._broker_away:
            return BROKER_AWAY
        if done:
            return 0.0
        return LONGEST_PAUSE if self._next_due is None else min(max(self._next_due, 0.001), LONGEST_PAUSE)

    def wake(self) -> None:
        """A row has become due of which the relay does not know."""
        if not self._broker_away:
            self._woken.set()

    async def sleep(self, seconds: float) -> None:
        await set_within(seconds, self._woken)

    async def _take(self) -> list[JobRef]:
        """Take due rows for `HOLD` seconds."""
        self._next_due = await self._look()
        if self._next_due is None or self._next_due > 0:
            return []
        ledger = Direct(self._engine)
        try:
            async with ledger.transaction() as conn:
                refs, promoted = await outbox.take_due(conn, BATCH_SIZE, HOLD, self._since)
                await notifications.announce(conn, promoted)
                await conn.commit()
        finally:
            await ledger.close()
        return refs

    async def _look(self) -> float | None:
        """Seconds until the next row is due; None if none is for `LONGEST_PAUSE`."""
        async with self._polls.statements() as conn:
            started = time.monotonic()
            for_all = started >= self._look_for_all_at
            found = await outbox.next_due(conn, None if for_all else self._since, LONGEST_PAUSE)
        if for_all:
            took = time.monotonic() - started
            self._look_for_all_at = started + max(took - QUICK, 0) / SEARCH_SHARE
        self._since = min(found.due_at or found.now, found.now) - COMMITS_WITHIN
        return None if found.due_at is None else (found.due_at - found.now).total_seconds()


class Reconciler:
    """Compares the ledger's published rows with the broker's queues. Does nothing where the ledger is the broker.

    It compares numbers, not messages. If the broker has fewer references of a queue than the ledger, the relay
    publishes the oldest again. Some of them may not be the lost ones: their duplicates do no harm, and the lost ones
    become the oldest in time.

    Jobs that are leased over HTTP leave stale references behind. On a queue that no worker consumes they would never
    be dropped, so the reconciler clears such a queue.
    """

    name = "reconciler"

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker
        self._errors = RowErrors(self.name)
        self._took = 0.0

    async def run_once(self) -> int:
        started = time.monotonic()
        done = 0 if self._broker.is_ledger else await self._reconcile()
        self._took = time.monotonic() - started
        return done

    def pause(self, done: int) -> float:
        return min(max(RECONCILE_EVERY, self._took / SEARCH_SHARE), RECONCILE_AT_LEAST_EVERY)

    async def _reconcile(self) -> int:
        async with reading(self._engine) as conn:
            expected = await outbox.unclaimed(conn, SETTLED)
            leased = await outbox.leased(conn)
        for queue, good in leased.items():
            with self._errors.contained(queue):
                await self._clear(queue, good)
        if not expected:
            return 0
        missing = await self._missing(expected)
        return sum([await self._publish_again(queue, min(old, missing[queue])) for queue, old in expected.items()])

    async def _missing(self, queues: Iterable[str]) -> dict[str, int]:
        """By queue, how many more published references, of any age, the ledger has than the broker.

        Young ones count too, or new references under steady load would hide lost ones. The ledger is read last, for
        what was published before the broker was asked: what is claimed or published in between never counts as lost.
        """
        asked = time.monotonic()
        there = await self._broker.depths(queues)
        async with reading(self._engine) as conn:
            unclaimed = await outbox.unclaimed(conn, time.monotonic() - asked)
        return {queue: unclaimed.get(queue, 0) - there[queue] for queue in queues}

    async def _clear(self, queue: str, good: int) -> None:
        cleared = await self._broker.clear(queue, good + max(good, STALE))
        if cleared:
            log.info("references_cleared", queue=queue, count=cleared)

    async def _publish_again(self, queue: str, missing: int) -> int:
        if missing <= 0:
            return 0
        async with transaction(self._engine) as conn:
            done = await outbox.publish_again(conn, queue, SETTLED, min(missing, PUBLISH_AGAIN))
            await conn.commit()
        log.warning("references_lost", queue=queue, published_again=done)
        return done
