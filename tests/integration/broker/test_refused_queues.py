"""A queue that RabbitMQ refuses to declare: other queues go on, and it is served once an operator has mended it."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aio_pika
import pytest
from structlog.testing import capture_logs

from accepted.broker.rabbitmq import topology
from accepted.broker.rabbitmq.topology import declare_base, declare_queue
from accepted.storage.jobs.submission import Entry
from accepted_worker.scheduler.relay import BROKER_AWAY, Relay
from tests.support.ledger.brokers import PATIENCE, BrokerHarness, claim, claim_all, ids
from tests.support.ledger.jobs import a_job, insert
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until

on_rabbitmq = pytest.mark.parametrize("harness", ["rabbitmq"], indirect=True)

Mend = Callable[[], Awaitable[object]]


def refused(lines: list[MutableMapping[str, Any]]) -> list[str]:
    return [line["queue"] for line in lines if line["event"] == "queue_refused"]


@pytest.fixture(params=["other arguments", "limit of the vhost"])
async def mend(
    request: pytest.FixtureRequest,
    rabbitmq_node: RabbitMQNode,
    amqp_vhost: VirtualHost,
    monkeypatch: pytest.MonkeyPatch,
) -> Mend:
    """Queue `a` is refused until this is called; the first of the alphabet, so that others come after it."""
    monkeypatch.setattr(topology, "TRY_AGAIN", 1.0)
    vhost = amqp_vhost.name
    async with await aio_pika.connect(amqp_vhost.url) as connection, connection.channel() as channel:
        await declare_base(channel)
        if request.param == "other arguments":
            await channel.declare_queue("accepted.q.a", durable=True)
            return lambda: asyncio.to_thread(rabbitmq_node.delete_queue, "accepted.q.a", vhost)
        for queue in "bc":
            await declare_queue(channel, queue)
    await asyncio.to_thread(rabbitmq_node.ctl, "set_vhost_limits", "-p", vhost, '{"max-queues": 3}')
    return lambda: asyncio.to_thread(rabbitmq_node.ctl, "clear_vhost_limits", "-p", vhost)


@on_rabbitmq
async def test_its_references_alone_wait_to_be_published(harness: BrokerHarness, mend: Mend) -> None:
    entries = [Entry(a_job(queue=queue), handoff=0.0) for queue in "aabbc"]
    await insert(harness.engine, *entries)
    relay = Relay(harness.engine, harness.broker, PollConnection(harness.engine))
    with capture_logs() as lines:
        assert await relay.run_once() == 3
        assert relay.pause(3) == 0, "what can be published does not wait for it"
        await do(harness.engine, "UPDATE outbox SET due_at = now() WHERE NOT published")
        assert await relay.run_once() == 0
        assert relay.pause(0) < BROKER_AWAY, "nor does what is due behind them"
    assert refused(lines) == ["a"]
    assert await harness.broker.depths("bc") == {"b": 2, "c": 1}
    await mend()

    async def published() -> bool:
        await do(harness.engine, "UPDATE outbox SET due_at = now() WHERE NOT published")
        return await relay.run_once() == 2

    await until(published, PATIENCE, "what waited to be published", interval=0.2)
    assert await harness.broker.depths("abc") == {"a": 2, "b": 2, "c": 1}


@on_rabbitmq
async def test_a_worker_serves_the_others(harness: BrokerHarness, mend: Mend) -> None:
    refs = await harness.put("b", 3) + await harness.put("c", 3)
    subscription = harness.subscribe(2, "a", "b", "c")
    with capture_logs() as lines:
        found = await claim_all(harness, subscription, 6)
    assert sorted(ids(found)) == sorted(ref.job_id for ref in refs)
    assert set(refused(lines)) == {"a"}
    waiting = asyncio.ensure_future(claim(subscription))
    await mend()
    await insert(harness.engine, Entry(a_job(queue="a"), handoff=0.0))
    relay = Relay(harness.engine, harness.broker, PollConnection(harness.engine))
    await until(relay.run_once, PATIENCE, "its reference to be published", interval=0.2)
    (served,) = await asyncio.wait_for(waiting, PATIENCE)
    assert served.claim.job.queue == "a"


@on_rabbitmq
async def test_a_reference_that_fits_into_no_message_waits_alone(harness: BrokerHarness) -> None:
    """The name of a type is an AMQP short string, and this one is too long."""
    entries = [Entry(a_job(queue="a"), handoff=0.0) for _ in range(3)]
    await insert(harness.engine, *entries)
    await do(harness.engine, "UPDATE jobs SET type = repeat('x', 300) WHERE id = :id", id=entries[1].job.id)
    relay = Relay(harness.engine, harness.broker, PollConnection(harness.engine))
    with capture_logs() as lines:
        assert await relay.run_once() == 2
        await do(harness.engine, "UPDATE outbox SET due_at = now()")
        assert await relay.run_once() == 0
        assert relay.pause(0) < BROKER_AWAY, "the broker is there"
    assert len([line for line in lines if line["event"] == "row_unusable"]) == 1
