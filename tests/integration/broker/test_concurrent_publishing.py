"""Several publishes share one connection: when one of them drops it, the others report that they failed."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.rabbitmq.broker import RabbitBroker
from accepted.domain.ids import new_id
from accepted.domain.references import JobRef
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.proxy import Direction, Proxy
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until

CHANNEL_CLOSE = b"\x00\x14\x00\x28"  # class and method of AMQP 0-9-1: the end of what declares a queue
NEW_QUEUE = b"accepted.q.new"


async def test_a_connection_dropped_while_a_queue_is_declared(engine: AsyncEngine, amqp_vhost: VirtualHost) -> None:
    async with Proxy(amqp_vhost.url) as proxy:
        broker = RabbitBroker([proxy.url_for(amqp_vhost.url)], engine)
        assert await broker.publish([_ref("old")])
        seen = b""
        dropping: list[asyncio.Task[None]] = []

        def drop_at_the_end_of_declaring(direction: Direction, chunk: bytes) -> None:
            nonlocal seen
            seen += chunk if direction == "up" else b""
            if not dropping and CHANNEL_CLOSE in seen.partition(NEW_QUEUE)[2]:
                dropping.append(asyncio.ensure_future(broker.close()))

        proxy.watch = drop_at_the_end_of_declaring
        assert await broker.publish([_ref("new")]) == []
        await dropping[0]
        proxy.watch = None
        await broker.close()


def _ref(queue: str) -> JobRef:
    return JobRef(new_id(), 0, queue, "noop", 4)


async def test_what_is_returned_is_published_once_more_at_once(
    engine: AsyncEngine, amqp_vhost: VirtualHost, rabbitmq_node: RabbitMQNode
) -> None:
    """A deleted queue is declared again, and references of other queues are not published twice."""
    broker = RabbitBroker([amqp_vhost.url], engine)
    assert await broker.publish([_ref("gone"), _ref("kept")])
    rabbitmq_node.delete_queue("accepted.q.gone", amqp_vhost.name)
    refs = [_ref("gone"), _ref("kept"), _ref("gone")]
    assert set(await broker.publish(refs)) == set(refs)
    await until(lambda: rabbitmq_node.queues(amqp_vhost.name)["accepted.q.gone"][0] == 2, 10, "both are there")
    await until(
        lambda: rabbitmq_node.queues(amqp_vhost.name)["accepted.q.kept"][0] == 2, 10, "one from before, one now"
    )
    await broker.close()
