"""References that RabbitMQ lost are found by count, also while more arrive than are claimed."""

import pytest

from accepted_worker.scheduler.relay import Reconciler, Relay
from tests.support.ledger.brokers import BrokerHarness, claim_all, ids
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.rabbitmq import RabbitMQNode

on_rabbitmq = pytest.mark.parametrize("harness", ["rabbitmq"], indirect=True)


@on_rabbitmq
async def test_what_was_lost_is_found_under_a_lasting_load(
    harness: BrokerHarness, rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost
) -> None:
    """Under load the broker has any number of young references, which must not hide the lost ones."""
    reconciler = Reconciler(harness.engine, harness.broker)
    lost = await harness.put("q", 4)
    rabbitmq_node.purge("accepted.q.q", amqp_vhost.name)
    there = await harness.put("q", 3)
    await do(harness.engine, "UPDATE outbox SET due_at = now() - interval '1 minute'")
    await do(
        harness.engine,
        "UPDATE outbox SET due_at = due_at - interval '1 second' WHERE job_id = ANY(:ids)",
        ids=[ref.job_id for ref in lost],
    )
    load = await harness.put("q", 20)
    assert await reconciler.run_once() == 4
    assert await Relay(harness.engine, harness.broker, PollConnection(harness.engine)).run_once() == 4
    assert await harness.broker.depths(["q"]) == {"q": 27}
    await do(harness.engine, "UPDATE outbox SET due_at = now() - interval '1 minute' WHERE due_at < now()")
    assert await reconciler.run_once() == 0, "nothing is missing any more"
    found = await claim_all(harness, harness.subscribe(10, "q"), 27)
    assert sorted(ids(found)) == sorted(ref.job_id for ref in lost + there + load)


@on_rabbitmq
async def test_young_references_are_left_alone(
    harness: BrokerHarness, rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost
) -> None:
    """Young references may be between the broker and a claim; later they are old, and count."""
    reconciler = Reconciler(harness.engine, harness.broker)
    await harness.put("q", 2)
    await do(harness.engine, "UPDATE outbox SET due_at = now() - interval '1 minute'")
    await harness.put("q", 5)
    rabbitmq_node.purge("accepted.q.q", amqp_vhost.name)
    assert await reconciler.run_once() == 2
    assert await reconciler.run_once() == 0
