"""Brokers with their ledger: one under test, on which jobs are put and a worker works, and one that is a list."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.ids import new_id
from accepted.domain.references import JobRef
from accepted.domain.retry import Retry
from accepted.domain.transitions import RunningAttempt
from accepted.services.jobs.claiming import Claimer, Delivery
from accepted.services.jobs.completion import settle
from accepted.services.jobs.publishing import handoff, publish
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import submission
from accepted.storage.jobs.submission import Entry
from tests.support.ledger.jobs import a_job

PATIENCE = 30.0  # seconds; a new queue is declared on a broker with two noisy cores
SHORT = 2.5  # seconds in which nothing must happen: longer than a poll, a watch and a hold


class BrokerHarness:
    """A broker with its ledger, and what was opened on it."""

    def __init__(self, kind: str, engine: AsyncEngine, broker: Broker) -> None:
        self.kind, self.engine, self.broker = kind, engine, broker
        self._running: dict[Claimer, asyncio.Task[None]] = {}

    async def put(self, queue: str, count: int = 1, **fields: Any) -> list[JobRef]:
        """Accept jobs and publish them, as a submitter does."""
        jobs = [a_job(queue=queue, **fields) for _ in range(count)]
        async with transaction(self.engine) as conn:
            entries = [Entry(job, handoff=handoff(self.broker, publishes=True)) for job in jobs]
            await submission.insert(conn, entries, 60)
            await self.broker.announce(conn, {queue})
            await conn.commit()
        refs = [JobRef(job.id, 0, queue, job.type, job.priority) for job in jobs]
        if not self.broker.is_ledger:
            assert await publish(self.engine, self.broker, refs, "test") == count
        return refs

    def subscribe(self, slots: int, *queues: str, types: Sequence[str] | None = None) -> Claimer:
        claimer = Claimer(self.engine, self.broker, new_id(), slots, types)
        claimer.serve(queues)
        self._running[claimer] = asyncio.create_task(claimer.run())
        return claimer

    async def vanish(self, subscription: Claimer) -> None:
        """The worker dies: the broker is not told."""
        task = self._running.pop(subscription)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def finish(self, *deliveries: Delivery) -> None:
        """Commit the outcomes, then tell the broker, in the order of a worker."""
        batch = [transitions.succeeded(running_attempt(each), "{}") for each in deliveries]
        assert all(await settle(self.engine, self.broker, batch))

    async def close(self) -> None:
        for subscription in list(self._running):
            await subscription.stop()
            await self.vanish(subscription)
        await self.broker.close()
        await self.engine.dispose()


def running_attempt(delivery: Delivery) -> RunningAttempt:
    job = delivery.claim.job
    return RunningAttempt(
        job_id=job.id, attempt=job.attempt, worker_id=delivery.claim.worker_id, max_attempts=job.max_attempts,
        crashes=delivery.claim.crashes, retry=Retry(),
    )  # fmt: skip


async def claim(subscription: Claimer, most: int = 100) -> list[Delivery]:
    return await asyncio.wait_for(asyncio.shield(subscription.claim(most)), PATIENCE)


async def claim_all(harness: BrokerHarness, subscription: Claimer, count: int, most: int = 100) -> list[Delivery]:
    """Claim and finish until there were `count`."""
    found: list[Delivery] = []
    while len(found) < count:
        deliveries = await claim(subscription, most)
        await harness.finish(*deliveries)
        await subscription.ack(deliveries)
        found += deliveries
    return found


async def nothing_comes(subscription: Claimer) -> bool:
    """No claim succeeds for a while; the subscription is used up by asking."""
    waiting = asyncio.ensure_future(subscription.claim(10))
    done, _ = await asyncio.wait([waiting], timeout=SHORT)
    if done:
        return waiting.result() == []
    await subscription.stop()
    return await asyncio.wait_for(waiting, PATIENCE) == []


def ids(deliveries: list[Delivery]) -> list[UUID]:
    return [delivery.claim.job.id for delivery in deliveries]


class ListBroker(PostgresBroker):
    """A broker that keeps published references in a list, or confirms none."""

    is_ledger = False

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, "")
        self.sent: list[JobRef] = []
        self.works = True
        self.there: dict[str, int] = {}

    async def publish(self, refs: Sequence[JobRef]) -> list[JobRef]:
        if not self.works:
            return []
        await asyncio.sleep(0)
        self.sent += refs
        return list(refs)

    async def depths(self, queues: object) -> dict[str, int]:
        return self.there

    async def check(self) -> str:
        return "ok" if self.works else "unavailable"
