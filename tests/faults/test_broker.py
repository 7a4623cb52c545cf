"""The broker dies, forgets everything, runs out of memory or loses a queue: clients notice nothing."""

import asyncio
import time

import aio_pika
import pytest

from accepted.broker.rabbitmq.topology import declare_queue, queue_name
from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until

ALARM = 20.0  # seconds
FAST = 1.0  # seconds for a 202, on a machine that runs other tests too
QUEUE = queue_name(effects.QUEUE)


@pytest.mark.fault("F29", moment="under load")
async def test_the_broker_killed_and_restarted(
    cluster: Cluster, client: Client, ledger: Ledger, rabbitmq_node: RabbitMQNode, measured: Measured
) -> None:
    await cluster.start(concurrency=4)
    before = asyncio.create_task(client.load(100, {"seconds": 0.05}))
    await until(lambda: len(client.ids) >= 50, 60, "half of them accepted")
    await asyncio.to_thread(rabbitmq_node.kill)
    await before
    await client.load(50, {"seconds": 0.05}, clients=4)
    await asyncio.to_thread(rabbitmq_node.start)
    back = time.monotonic()
    await check(ledger, client, cluster.journal)
    measured("from the broker's return to the last job", time.monotonic() - back, 60)
    assert {call.status for call in client.calls} == {202}


@pytest.mark.fault("F35", moment="backlog")
async def test_the_broker_wiped(
    cluster: Cluster, client: Client, ledger: Ledger, rabbitmq_node: RabbitMQNode, measured: Measured
) -> None:
    await cluster.start(concurrency=2)
    await client.load(100, {"seconds": 0.3}, clients=16)
    await until(lambda: _published(ledger), 30, "everything is published")
    await asyncio.to_thread(rabbitmq_node.wipe)
    back = time.monotonic()
    waiting = await ledger.count("queued")
    assert waiting, "there was no backlog left to lose"
    await check(ledger, client, cluster.journal, within=70)
    measured(f"from the wiped broker's return to the last of {waiting} jobs", time.monotonic() - back, 60)


@pytest.mark.fault("F32", moment="under load")
@pytest.mark.slow
async def test_a_memory_alarm(
    cluster: Cluster, client: Client, ledger: Ledger, rabbitmq_node: RabbitMQNode, measured: Measured
) -> None:
    await cluster.start()
    await client.load(20)
    rabbitmq_node.set_memory_alarm(True)
    raised = time.monotonic()
    while time.monotonic() - raised < ALARM:
        await client.load(4, clients=4)
        await asyncio.sleep(0.05)  # the pace of this load
    rabbitmq_node.set_memory_alarm(False)
    cleared = time.monotonic()
    calls = sorted(call.seconds for call in client.calls)
    assert {call.status for call in client.calls} == {202}
    measured(f"slowest of {len(calls)} answers", calls[-1], FAST)
    await check(ledger, client, cluster.journal)
    measured("from the end of the alarm to the last job", time.monotonic() - cleared, 30)


@pytest.mark.fault("F35", moment="backlog")
@pytest.mark.slow
async def test_a_queue_deleted_under_a_live_worker(
    cluster: Cluster,
    client: Client,
    ledger: Ledger,
    rabbitmq_node: RabbitMQNode,
    amqp_vhost: VirtualHost,
    measured: Measured,
) -> None:
    await cluster.start(concurrency=2)
    await client.load(60, {"seconds": 0.3}, clients=16)
    await until(lambda: _published(ledger), 30, "everything is published")

    rabbitmq_node.delete_queue(QUEUE, amqp_vhost.name)
    deleted = time.monotonic()

    assert await ledger.count("queued"), "there was no backlog left to lose"
    fresh = await client.accept()
    await until(lambda: _succeeded(ledger, fresh), 30, "a new job runs")
    measured("from the deletion to a new job's end", time.monotonic() - deleted, 30)
    await check(ledger, client, cluster.journal, within=70)
    measured("from the deletion to the last job", time.monotonic() - deleted, 60)


@pytest.mark.slow
@pytest.mark.fault("F35", moment="idle")
async def test_a_queue_deleted_and_made_anew_under_a_live_worker(
    cluster: Cluster, client: Client, ledger: Ledger, amqp_vhost: VirtualHost, measured: Measured
) -> None:
    """RabbitMQ 3.10.8 moves the consumer to the new queue, and never sends it what the new queue counts as sent."""
    await cluster.start(concurrency=2)
    await client.load(5, {"seconds": 0}, clients=1)
    await check(ledger, client, cluster.journal, within=30)
    async with await aio_pika.connect(amqp_vhost.url) as connection, connection.channel() as channel:
        await channel.queue_delete(QUEUE)
        await declare_queue(channel, effects.QUEUE)
        fresh = await client.accept()
        made_anew = time.monotonic()
    await until(lambda: _succeeded(ledger, fresh), 30, "a new job runs")
    measured("from the new queue to a new job's end", time.monotonic() - made_anew, 30)
    await check(ledger, client, cluster.journal, within=30)


async def _published(ledger: Ledger) -> bool:
    return not await ledger.value("SELECT count(*) FROM outbox WHERE NOT published")


async def _succeeded(ledger: Ledger, job_id: str) -> bool:
    return bool(await ledger.value("SELECT status = 'succeeded' FROM jobs WHERE id = $1::uuid", job_id))
