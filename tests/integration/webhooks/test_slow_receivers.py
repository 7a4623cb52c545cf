"""A receiver that answers slowly: it takes no handler's slot, few slots for deliveries, and nobody else's turn."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.job import WEBHOOK_QUEUE, WEBHOOK_TYPE
from accepted.domain.network import targets as rules
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.turns import beside_others
from accepted.services import queues, webhooks
from accepted.storage import webhooks as ledger
from accepted.storage.attempts.claims import claim_next
from accepted.storage.db.engine import transaction
from accepted_worker.handlers.webhooks import webhook_handler
from accepted_worker.outbound.egress import Egress
from accepted_worker.runtime.worker import DELIVERY_SLOTS
from tests.support.ledger.brokers import BrokerHarness
from tests.support.ledger.limited_queue import Queue, a_worker
from tests.support.ledger.sql import do, rows
from tests.support.servers.receiver import Answer, Receiver, Request
from tests.support.service.in_process_worker import HANDLERS, accept, has, working
from tests.support.waiting import until

SLOTS = 2


async def write(engine: AsyncEngine, broker: Any, url: str, count: int, tenant: str = "t") -> None:
    async with transaction(engine) as conn:
        payload = {"url": url, "job_id": "x", "event": "{}"}
        made = [webhooks.delivery(tenant, WEBHOOK_TYPE, payload) for _ in range(count)]
        await webhooks.write(conn, broker, made)
        await conn.commit()


async def test_it_takes_no_slot_of_a_handler(harness: BrokerHarness, database_url: str) -> None:
    engine, broker = harness.engine, harness.broker
    answered = asyncio.Event()

    async def slowly(_: Request) -> Answer:
        await answered.wait()
        return Answer()

    handlers = HANDLERS | {WEBHOOK_TYPE: webhook_handler(engine, None)}
    egress = Egress(EgressAllow.parse("127.0.0.0/8"))
    async with (
        Receiver(slowly) as slow,
        Receiver() as fast,
        working(
            engine, broker, None, handlers=handlers, concurrency=SLOTS, egress=egress, database_url=database_url
        ) as worker,
    ):
        await write(engine, broker, slow.url, 40)
        await slow.wait_for(SLOTS + 1, 20)
        job_id = await accept(engine, broker, "noop")
        await until(has(engine, job_id, "succeeded"), 20, "a job beside them")
        await write(engine, broker, fast.url, 5)
        await fast.wait_for(5, 20)
        assert len(slow.requests) == rules.BUDGET / rules.UNKNOWN

        async def shown() -> bool:
            found = await queues.describe(engine, WEBHOOK_QUEUE, None, 3)
            assert found is not None
            assert found["slots"] == DELIVERY_SLOTS
            return bool(found["depth"]["running"] == len(slow.requests))

        await until(shown, 20, "only those to the slow receiver run")
        worker.stop()
        answered.set()
    assert len(await rows(engine, "SELECT 1 FROM attempts WHERE finished_at IS NULL")) == 0


@pytest.fixture
async def queue(engine: AsyncEngine, broker: PostgresBroker, database_url: str) -> Queue:
    await a_worker(engine, DELIVERY_SLOTS, [WEBHOOK_QUEUE], [WEBHOOK_TYPE])
    return Queue(engine, broker, database_url)


async def admitted(queue: Queue) -> Counter[str]:
    while await queue.limiter.run_once():
        pass
    found = await rows(queue.engine, "SELECT concurrency_key AS key FROM outbox WHERE admitted")
    return Counter(row["key"] for row in found)


async def answers(engine: AsyncEngine, url: str, seconds: float) -> None:
    async with transaction(engine) as conn:
        await ledger.answered_in(conn, {webhooks.receiver_key("t", url): seconds})
        await conn.commit()


@pytest.mark.parametrize(
    ("seconds", "at_once"),
    [(None, 10), (0.01, rules.MOST_AT_ONCE), (1, 60), (6, 10), (15, rules.LEAST_AT_ONCE)],
)
async def test_how_many_at_once_depends_on_its_time_to_answer(
    queue: Queue, broker: PostgresBroker, seconds: float | None, at_once: int
) -> None:
    if seconds is not None:
        await answers(queue.engine, "http://a.test/1", seconds)
    await write(queue.engine, broker, "http://a.test/hook", 150)
    assert await admitted(queue) == {"t a.test:80": at_once}


async def test_a_receiver_that_becomes_slow_gets_fewer_at_once(queue: Queue, broker: PostgresBroker) -> None:
    """Before its answer shows it: by the age of what it has not answered."""
    await answers(queue.engine, "http://a.test", 0.1)
    await write(queue.engine, broker, "http://a.test", 30)
    worker = await a_worker(queue.engine, 0)
    await admitted(queue)
    async with transaction(queue.engine) as conn:
        assert len(await claim_next(conn, worker, [WEBHOOK_QUEUE], 30)) == 30
        await conn.commit()
    await do(queue.engine, "UPDATE attempts SET started_at = started_at - interval '6 seconds'")
    await write(queue.engine, broker, "http://a.test", 30)
    assert await admitted(queue) == {}
    await write(queue.engine, broker, "http://b.test", 30)
    assert await admitted(queue) == {"t b.test:80": 10}


async def test_no_receiver_takes_the_turn_of_another(queue: Queue, broker: PostgresBroker) -> None:
    for number in range(3):
        await answers(queue.engine, f"http://{number}.test", 0.01)
        await write(queue.engine, broker, f"http://{number}.test", 200)
    await write(queue.engine, broker, "http://late.test", 1)
    await write(queue.engine, broker, "http://0.test", 1, tenant="other")
    found = await admitted(queue)
    assert found["t late.test:80"] == found["other 0.test:80"] == 1
    assert sum(found.values()) == beside_others(DELIVERY_SLOTS) + 1, "the last slots are for the other tenant"
    assert max(found.values()) <= rules.MOST_AT_ONCE


async def test_its_time_to_answer_is_measured(engine: AsyncEngine, broker: PostgresBroker) -> None:
    handlers = {WEBHOOK_TYPE: webhook_handler(engine, None)}
    egress = Egress(EgressAllow.parse("127.0.0.0/8"))
    async with (
        Receiver(lambda _: Answer(after=0.3)) as receiver,
        working(engine, broker, WEBHOOK_QUEUE, handlers=handlers, egress=egress),
    ):
        await write(engine, broker, receiver.url, 1)

        async def measured() -> float | None:
            found = await rows(engine, "SELECT seconds FROM receivers")
            return found[0]["seconds"] if found else None

        assert 0.3 <= await until(measured, 20, "the time is written") < 5
