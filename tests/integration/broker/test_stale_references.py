"""Jobs that are leased over HTTP leave their references on RabbitMQ: a queue without consumers is cleared of them."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.rabbitmq.broker import RabbitBroker
from accepted.storage.db.engine import transaction
from accepted_worker.scheduler import relay
from accepted_worker.scheduler.relay import Reconciler, Relay
from tests.support.clients.lease_client import lease, register, say
from tests.support.ledger.poll_connection import PollConnection
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.service.in_process_worker import working
from tests.support.service.live_api import api
from tests.support.waiting import until


async def test_a_queue_of_stale_references_is_cleared(
    engine: AsyncEngine,
    database_url: str,
    amqp_vhost: VirtualHost,
    rabbitmq_node: RabbitMQNode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "STALE", 3)
    broker = RabbitBroker([amqp_vhost.url], engine)
    reconciling = Reconciler(engine, broker)

    def depth() -> int:
        return rabbitmq_node.queues(amqp_vhost.name).get("accepted.q.node", (-1, 0, 0))[0]

    async with api(database_url, amqp_vhost.url, lease_ttl=30) as one:
        client = await one.client()
        await register(client)
        jobs = [(await client.submit("node.echo"))["id"] for _ in range(6)]
        await until(lambda: depth() == 6, 20, "all of them to be published")
        await reconciling.run_once()
        assert depth() == 6, "they are good"
        items = await lease(client, most=5)
        await asyncio.gather(*(say(client, item, "complete") for item in items))
        await reconciling.run_once()
        await until(lambda: depth() == 0, 10, "five stale ones, and with them a good one, to be cleared")

        async with transaction(engine) as conn:
            await conn.execute(text("UPDATE outbox SET due_at = due_at - interval '1 minute'"))
            await conn.commit()
        assert await reconciling.run_once() == 1, "which the ledger says is lost"
        assert await Relay(engine, broker, PollConnection(engine)).run_once() == 1
        await until(lambda: depth() == 1, 10, "it to be published again")
        (last,) = await lease(client, most=5)
        assert {item["job"]["id"] for item in [*items, last]} == set(jobs)
        assert [item["job"]["attempt"] for item in [*items, last]] == [1] * 6

        done = [(await client.submit("node.echo"))["id"] for _ in range(5)]
        await until(lambda: depth() == 6, 20, "them to be published")
        assert len(await lease(client, most=5)) == len(done)
        async with working(engine, broker, "node"):
            await until(lambda: depth() == 0, 20, "a worker to drop them")
    await broker.close()


async def test_a_queue_with_a_consumer_is_left_to_it(
    engine: AsyncEngine, amqp_vhost: VirtualHost, rabbitmq_node: RabbitMQNode
) -> None:
    broker = RabbitBroker([amqp_vhost.url], engine)
    assert await broker.clear("nowhere", 0) == 0
    async with working(engine, broker, "node"):
        await until(
            lambda: rabbitmq_node.queues(amqp_vhost.name).get("accepted.q.node", (0, 0, 0))[2], 20, "a consumer"
        )
        assert await broker.clear("node", -1) == 0
    await broker.close()
