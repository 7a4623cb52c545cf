"""What only RabbitMQ can get wrong: messages that are none of ours, and how many are delivered ahead."""

import aio_pika
import pytest

from app.broker.consuming import WATCH_EVERY, RabbitSubscription
from app.broker.rabbitmq import RabbitBroker
from app.storage.engine import create_engine
from tests.conftest import VirtualHost
from tests.integration.road import PATIENCE, Road, claim, claim_all, ids
from tests.support.rabbitmq import RabbitMQNode
from tests.support.waiting import until


async def test_garbage_goes_to_the_dead_queue(amqp_url: str, database_url: str) -> None:
    engine = create_engine(database_url)
    road = Road("rabbitmq", engine, RabbitBroker([amqp_url], engine))
    garbage = [
        b"",
        b"garbage \xff",
        b"[]",
        b'{"v":9}',
        b'{"v":1,"id":"01a20a5f-5eca-7433-9bac-af4993e68657","attempt":0}',
    ]
    await road.put("q")
    subscription = road.subscribe(2, "q")
    await claim_all(road, subscription, 1)
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("accepted.jobs")
        for body in garbage:
            await exchange.publish(aio_pika.Message(body), routing_key="accepted.q.q")
        (behind,) = await road.put("q")
        assert ids(await claim_all(road, subscription, 1)) == [behind.job_id]
        dead = await channel.get_queue("accepted.dead")
        found: list[bytes] = []

        async def all_there() -> bool:
            while (message := await dead.get(no_ack=True, fail=False)) is not None:
                found.append(message.body)
            return len(found) >= len(garbage)

        await until(all_there, PATIENCE, lambda: f"{found}")
        assert sorted(found) == sorted(garbage)
    await road.close()


async def test_no_more_is_delivered_than_there_are_slots(
    rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost, database_url: str
) -> None:
    """Before anything is given back: the prefetch itself is the bound."""
    engine = create_engine(database_url)
    road = Road("rabbitmq", engine, RabbitBroker([amqp_vhost.url], engine))
    await road.put("q", 40)
    await claim(road.subscribe(3, "q"), 1)
    seen: list[int] = []

    def looked() -> bool:
        _, unacked, _ = rabbitmq_node.queues(amqp_vhost.name)["accepted.q.q"]
        seen.append(unacked)
        return len(seen) >= 10 and max(seen) > 0

    await until(looked, PATIENCE, lambda: f"{seen}", interval=0.1)
    assert max(seen) <= 3
    await road.close()


async def test_a_busy_subscription_takes_nothing_until_it_asks(amqp_url: str, database_url: str) -> None:
    """Taking and giving back in turns would bring every waiting message to its delivery limit."""
    engine = create_engine(database_url)
    road = Road("rabbitmq", engine, RabbitBroker([amqp_url], engine))
    await road.put("one", 2)
    await road.put("two", 2)
    busy = road.subscribe(1, "one", "two")
    assert isinstance(busy, RabbitSubscription)
    (taken,) = await claim(busy, 1)
    await until(lambda: busy._paused, PATIENCE, "what has no slot to be given back")
    with pytest.raises(AssertionError, match="to consume again"):
        await until(lambda: busy._consumers, 3 * WATCH_EVERY, "to consume again")
    await road.finish(taken)
    await busy.settle([taken])
    assert len(await claim_all(road, busy, 3, most=1)) == 3
    await road.close()
