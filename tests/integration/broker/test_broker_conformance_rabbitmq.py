"""Only on RabbitMQ: messages that are not references, prefetching, lost consumers, and acks."""

import asyncio
from contextlib import suppress

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.rabbitmq.broker import RabbitBroker
from accepted.broker.rabbitmq.connections import SENT_WITHIN, Connector
from accepted.broker.rabbitmq.subscription import DEAF, WATCH_EVERY, RabbitSubscription
from accepted.broker.rabbitmq.topology import declare_base, declare_queue
from accepted.storage.db.engine import create_engine
from accepted_worker.scheduler.housekeeping import Rejections
from tests.support.ledger.brokers import PATIENCE, BrokerHarness, claim, claim_all, ids
from tests.support.ledger.sql import do
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until

on_rabbitmq = pytest.mark.parametrize("harness", ["rabbitmq"], indirect=True)


@on_rabbitmq
async def test_garbage_goes_to_the_dead_queue(harness: BrokerHarness, amqp_url: str) -> None:
    garbage = [
        b"",
        b"garbage \xff",
        b"[]",
        b'{"v":9}',
        b'{"v":1,"id":"01a20a5f-5eca-7433-9bac-af4993e68657","attempt":0}',
    ]
    await harness.put("q")
    subscription = harness.subscribe(2, "q")
    await claim_all(harness, subscription, 1)
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("accepted.jobs")
        for body in garbage:
            await exchange.publish(aio_pika.Message(body), routing_key="accepted.q.q")
        (behind,) = await harness.put("q")
        assert ids(await claim_all(harness, subscription, 1)) == [behind.job_id]
        dead = await channel.get_queue("accepted.dead")
        found: list[bytes] = []

        async def all_there() -> bool:
            while (message := await dead.get(no_ack=True, fail=False)) is not None:
                found.append(message.body)
            return len(found) >= len(garbage)

        await until(all_there, PATIENCE, lambda: f"{found}")
        assert sorted(found) == sorted(garbage)
    await harness.close()


async def reject(url: str, *bodies: bytes) -> None:
    """Publish messages, and reject them as a worker does."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(on_return_raises=True)
        await declare_base(channel)
        await declare_queue(channel, "q")
        exchange = await channel.get_exchange("accepted.jobs")
        queue = await channel.get_queue("accepted.q.q")
        for number, body in enumerate(bodies):
            await exchange.publish(aio_pika.Message(body, message_id=f"m{number}"), routing_key="accepted.q.q")
            message = await queue.get(timeout=PATIENCE)
            assert message is not None
            await message.reject(requeue=False)


async def there(broker: RabbitBroker, count: int) -> None:
    async def arrived() -> bool:
        return await broker.count_rejected() == count

    await until(arrived, PATIENCE, f"{count} messages in accepted.dead")


async def test_rejected_messages_are_counted_and_stay(amqp_url: str, database_url: str) -> None:
    engine = create_engine(database_url)
    broker = RabbitBroker([amqp_url], engine)
    assert await broker.count_rejected() == 0, "before the queue exists"
    await reject(amqp_url, b"garbage \xff", b"", b"x" * 5000)
    await there(broker, 3)
    assert [await broker.count_rejected() for _ in range(30)] == [3] * 30
    await broker.close()
    await engine.dispose()


async def test_more_rejected_messages_are_said_once(amqp_url: str, database_url: str) -> None:
    engine = create_engine(database_url)
    broker = RabbitBroker([amqp_url], engine)
    loop = Rejections(broker)
    assert await loop.run_once() == 0
    await reject(amqp_url, b"one", b"two")
    await there(broker, 2)
    assert [await loop.run_once() for _ in range(2)] == [2, 0]
    await reject(amqp_url, b"three")
    await there(broker, 3)
    assert await loop.run_once() == 1
    assert await Rejections(RabbitBroker(["amqp://127.0.0.1:1/"], engine)).run_once() == 0
    await broker.close()
    await engine.dispose()


@on_rabbitmq
async def test_no_more_is_delivered_than_there_are_slots(
    rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost, harness: BrokerHarness
) -> None:
    """Without giving anything back: the prefetch count alone is the bound."""
    await harness.put("q", 40)
    await claim(harness.subscribe(3, "q"), 1)
    seen: list[int] = []

    def looked() -> bool:
        _, unacked, _ = rabbitmq_node.queues(amqp_vhost.name)["accepted.q.q"]
        seen.append(unacked)
        return len(seen) >= 10 and max(seen) > 0

    await until(looked, PATIENCE, lambda: f"{seen}", interval=0.1)
    assert max(seen) <= 3
    await harness.close()


@on_rabbitmq
async def test_an_old_backlog_is_no_sign_of_deafness(harness: BrokerHarness) -> None:
    """A worker that was busy for longer than `DEAF` seconds does not reconnect."""
    await harness.put("q", 4)
    await do(harness.engine, "UPDATE outbox SET due_at = now() - interval '1 hour'")
    worker = harness.subscribe(1, "q")
    rabbit = worker.subscription
    assert isinstance(rabbit, RabbitSubscription)
    (taken,) = await claim(worker, 1)
    channel = rabbit._channel
    rabbit._listening_since -= 2 * DEAF
    asking = asyncio.ensure_future(worker.claim(1))
    with pytest.raises(AssertionError, match="to connect anew"):
        await until(lambda: rabbit._channel is not channel, 2 * WATCH_EVERY, "to connect anew")
    await harness.finish(taken)
    await worker.ack([taken])
    assert len(await asyncio.wait_for(asking, PATIENCE)) == 1
    assert rabbit._channel is channel
    await harness.close()


@on_rabbitmq
async def test_time_without_a_consumer_is_none_of_silence(harness: BrokerHarness, amqp_url: str) -> None:
    """A worker that waited while the broker was away does not reconnect again at once."""
    (ref,) = await harness.put("q")
    await do(harness.engine, "UPDATE outbox SET due_at = now() - interval '1 hour'")
    async with await aio_pika.connect(amqp_url) as other:
        channel = await other.channel()
        await (await channel.get_queue("accepted.q.q")).get()
        worker = harness.subscribe(1, "q")
        rabbit = worker.subscription
        assert isinstance(rabbit, RabbitSubscription)
        asking = asyncio.ensure_future(worker.claim(1))
        await asyncio.sleep(0)
        rabbit._listening_since -= 2 * DEAF
        first = await until(lambda: rabbit._channel, PATIENCE, "to be connected", interval=0.001)
        with pytest.raises(AssertionError, match="to connect anew"):
            await until(lambda: rabbit._channel is not first, 2 * WATCH_EVERY, "to connect anew")
        assert rabbit._consumers
    assert ids(await asyncio.wait_for(asking, PATIENCE)) == [ref.job_id]


@on_rabbitmq
async def test_a_busy_subscription_takes_nothing_until_it_asks(harness: BrokerHarness) -> None:
    """Receiving and giving back over and over would bring every waiting message to its delivery limit."""
    await harness.put("one", 2)
    await harness.put("two", 2)
    busy = harness.subscribe(1, "one", "two")
    rabbit = busy.subscription
    assert isinstance(rabbit, RabbitSubscription)
    (taken,) = await claim(busy, 1)
    await until(lambda: rabbit._paused, PATIENCE, "what has no slot to be given back")
    with pytest.raises(AssertionError, match="to consume again"):
        await until(lambda: rabbit._consumers, 3 * WATCH_EVERY, "to consume again")
    await harness.finish(taken)
    await busy.ack([taken])
    assert len(await claim_all(harness, busy, 3, most=1)) == 3
    await harness.close()


@on_rabbitmq
async def test_what_is_settled_after_a_stop_is_acked(
    rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost, harness: BrokerHarness
) -> None:
    """A stopping worker finishes its jobs and acks them; without acks their messages would come again, stale."""
    await harness.put("q", 40)
    stopping = harness.subscribe(40, "q")
    rabbit = stopping.subscription
    assert isinstance(rabbit, RabbitSubscription)
    taken = await claim(stopping, 20)
    while len(taken) < 20:
        taken += await claim(stopping, 20 - len(taken))
    await stopping.stop()
    with pytest.raises(AssertionError, match="to let go"):
        await until(lambda: rabbit._channel is None, 2 * WATCH_EVERY, "to let go")
    assert await stopping.claim(20) == []
    await harness.finish(*taken)
    await stopping.ack(taken)
    await harness.vanish(stopping)

    def left() -> tuple[int, int]:
        ready, unacked, _ = rabbitmq_node.queues(amqp_vhost.name)["accepted.q.q"]
        return ready, unacked

    await until(lambda: left()[1] == 0, PATIENCE, lambda: f"{left()}")
    assert left() == (20, 0)
    await harness.close()


class LosesACancel(Connector):
    """A connector that loses a cancellation, as `asyncio.wait_for` may."""

    def __init__(self, url: str) -> None:
        super().__init__([url])
        self.connecting = asyncio.Event()

    async def open(self, name: str) -> AbstractConnection:
        self.connecting.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(PATIENCE)
        return await super().open(name)


async def test_a_lost_cancel_ends_a_subscription_all_the_same(amqp_url: str, engine: AsyncEngine) -> None:
    connector = LosesACancel(amqp_url)
    running = asyncio.create_task(RabbitSubscription(connector, engine, 1).run())
    await connector.connecting.wait()
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=10)
    assert done == {running}


async def test_what_cannot_be_written_is_given_up(amqp_vhost: VirtualHost, database_url: str) -> None:
    """More frames than aiormq's queue takes while the connection is lost: slots are free again all the same."""
    engine = create_engine(database_url)
    async with Proxy(amqp_vhost.url) as proxy:
        harness = BrokerHarness("rabbitmq", engine, RabbitBroker([proxy.url_for(amqp_vhost.url)], engine))
        await harness.put("q")
        subscription = harness.subscribe(1, "q")
        deliveries = await claim(subscription)
        proxy.cut()
        (message,) = [one.message for one in deliveries]
        assert message is not None
        rejects = [asyncio.create_task(subscription.subscription.reject(message)) for _ in range(5000)]
        _, waiting = await asyncio.wait(
            [*rejects, asyncio.create_task(subscription.ack(deliveries))], timeout=SENT_WITHIN / 2
        )
        assert waiting, "the queue of frames took them all"
        _, waiting = await asyncio.wait(waiting, timeout=SENT_WITHIN)
        assert not waiting
        await harness.close()
