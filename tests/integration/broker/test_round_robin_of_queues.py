"""A worker with fewer slots than jobs serves its RabbitMQ queues round robin, and gives few messages back."""

import asyncio
from collections import Counter

import aio_pika
import pytest

from accepted.broker.rabbitmq import subscription as module
from accepted.broker.rabbitmq.subscription import RabbitSubscription
from accepted.services.jobs.claiming import Claimer, Delivery
from tests.support.ledger.brokers import PATIENCE, BrokerHarness, claim, claim_all
from tests.support.waiting import until

on_rabbitmq = pytest.mark.parametrize("harness", ["rabbitmq"], indirect=True)

SLOTS = 2
BACKLOG = 40


class Slots:
    """A worker whose jobs take `seconds`, and which counts its jobs by queue."""

    def __init__(self, harness: BrokerHarness, subscription: Claimer, seconds: float) -> None:
        self._harness, self._subscription, self._seconds = harness, subscription, seconds
        self._free = asyncio.Semaphore(SLOTS)
        self._running: set[asyncio.Task[None]] = set()
        self.served: Counter[str] = Counter()

    async def work(self, jobs: int) -> None:
        while self.served.total() < jobs:
            await self._free.acquire()
            (delivery,) = await claim(self._subscription, 1)
            self.served[delivery.claim.job.queue] += 1
            task = asyncio.create_task(self._run(delivery))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        await asyncio.gather(*self._running)

    async def _run(self, delivery: Delivery) -> None:
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(self._seconds, over.set)
        await over.wait()
        await self._harness.finish(delivery)
        await self._subscription.ack([delivery])
        self._free.release()


@on_rabbitmq
async def test_long_jobs_on_one_queue_starve_no_other(harness: BrokerHarness, amqp_url: str) -> None:
    queues = ["a", "b", "c", "d"]
    for queue in queues:
        await harness.put(queue, BACKLOG)
    worker = Slots(harness, harness.subscribe(SLOTS, *queues), 1.3)
    await worker.work(24)
    assert set(worker.served) == set(queues), worker.served
    assert max(worker.served.values()) - min(worker.served.values()) <= SLOTS + 1, worker.served
    await harness.close()
    assert await redeliveries(amqp_url, queues) <= 24, "about once for each job that ran"


async def redeliveries(amqp_url: str, queues: list[str]) -> int:
    """How often the remaining messages were given back, in all."""
    count = 0
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        for name in queues:
            queue = await channel.get_queue(f"accepted.q.{name}")
            while (message := await queue.get(fail=False)) is not None:
                times = message.headers.get("x-delivery-count", 0)
                assert isinstance(times, int)
                count += times
    return count


@on_rabbitmq
async def test_short_jobs_after_long_ones_are_prefetched_again(
    harness: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetching one by one is for full slots; with free slots it would be the bottleneck."""
    monkeypatch.setattr(module, "HOLD", 0.2)  # the drain lasts longer
    for queue in ("a", "b"):
        await harness.put(queue, 400)
    subscription = harness.subscribe(5, "a", "b")
    rabbit = subscription.subscription
    assert isinstance(rabbit, RabbitSubscription)
    taken: list[Delivery] = []
    while len(taken) < 5:
        taken += await claim(subscription, 5 - len(taken))

    await until(lambda: rabbit._paused, PATIENCE, "what has no slot to be given back")
    await harness.finish(*taken)
    await subscription.ack(taken)
    more_than_it_fetches = 400
    draining = asyncio.create_task(claim_all(harness, subscription, 795, most=more_than_it_fetches))
    await until(lambda: len(rabbit._consumers) == 2, PATIENCE, "both to be consumed again")
    assert not draining.done(), "while there was more to fetch"
    await draining
    await harness.close()
