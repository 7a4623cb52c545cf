"""The broker restarted in order, alarmed, full, wrongly declared or silent: clients hear 202 all the same."""

import asyncio
import time
from collections.abc import Callable

import aio_pika
import pytest

from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

QUEUE = f"accepted.q.{effects.QUEUE}"
DELIVERED_WITHIN = 15.0  # seconds from the broker's return to the first delivery
FAST = 2.0  # seconds for a 202, on a machine that runs other tests too

RESTARTS: dict[str, Callable[[RabbitMQNode], None]] = {
    "in order": RabbitMQNode.restart,
    "stop_app, start_app": RabbitMQNode.restart_app,
}


@pytest.mark.fault("F30", moment="under load")
@pytest.mark.parametrize("how", RESTARTS)
async def test_the_broker_restarted(
    how: str, cluster: Cluster, client: Client, ledger: Ledger, rabbitmq_node: RabbitMQNode, measured: Measured
) -> None:
    await cluster.start(concurrency=4)
    load = asyncio.create_task(client.load(200, {"seconds": 0.1}, clients=4))
    await until(lambda: len(client.ids) >= 50, 60, "some accepted")
    await asyncio.to_thread(RESTARTS[how], rabbitmq_node)
    back = time.time()
    await load
    fresh = await client.accept()
    await until(lambda: _begun(cluster, fresh), 60, "a job delivered")
    first = min(line.at for line in effects.read(cluster.journal) if line.at > back)
    measured("from the broker's return to the first delivery", first - back, DELIVERED_WITHIN)
    await check(ledger, client, cluster.journal)
    assert {call.status for call in client.calls} == {202}


@pytest.mark.fault("F31", moment="under load")
async def test_every_broker_connection_closed_again_and_again(
    cluster: Cluster, client: Client, ledger: Ledger, rabbitmq_node: RabbitMQNode
) -> None:
    await cluster.start(concurrency=4)
    load = asyncio.create_task(client.load(150, {"seconds": 0.1}, clients=4))
    for _ in range(4):
        before = len(effects.read(cluster.journal))
        await until(lambda before=before: len(effects.read(cluster.journal)) > before + 8, 60, "some jobs run")
        rabbitmq_node.close_connections()
    await load
    await check(ledger, client, cluster.journal)
    assert {call.status for call in client.calls} == {202}


@pytest.mark.fault("F33", moment="under load")
async def test_a_disk_alarm(
    cluster: Cluster, client: Client, ledger: Ledger, rabbitmq_node: RabbitMQNode, measured: Measured
) -> None:
    await cluster.start()
    await client.load(20)
    rabbitmq_node.set_disk_alarm(True)
    raised = time.monotonic()
    while time.monotonic() - raised < 10:
        await client.load(4, clients=4)
    rabbitmq_node.set_disk_alarm(False)
    cleared = time.monotonic()
    assert {call.status for call in client.calls} == {202}
    measured("slowest answer", max(call.seconds for call in client.calls), FAST)
    await check(ledger, client, cluster.journal)
    measured("from the end of the alarm to the last job", time.monotonic() - cleared, 30)


@pytest.mark.fault("F34", moment="under load")
async def test_a_broker_that_says_nothing(
    cluster: Cluster, client: Client, ledger: Ledger, amqp_vhost: VirtualHost, measured: Measured
) -> None:
    """No RST, no FIN: only heartbeats tell, within three of them."""
    async with Proxy(amqp_vhost.url) as proxy:
        cluster.env["ACCEPTED_BROKER_URL"] = proxy.url_for(amqp_vhost.url)
        await cluster.start(concurrency=4)
        await client.load(40, {"seconds": 0.1})
        proxy.blackhole()
        silent = time.monotonic()
        while time.monotonic() - silent < 30:
            await client.load(2, clients=2)
            await asyncio.sleep(0.2)  # the pace of this load
        measured("slowest answer", max(call.seconds for call in client.calls), FAST)
        assert {call.status for call in client.calls} == {202}
        lost = [service.name for service in cluster.workers if "consumer_lost" not in service.log(10_000)]
        assert not lost, f"silence for 30 s went unnoticed by {lost}"
        await proxy.heal()
        healed = time.time()
        await until(lambda: any(line.at > healed for line in effects.read(cluster.journal)), 60, "a job delivered")
        measured("from healing to the first delivery", time.time() - healed, 2 * DELIVERED_WITHIN)
        await check(ledger, client, cluster.journal)


@pytest.mark.fault("F35", moment="backlog")
async def test_a_queue_purged_under_live_workers(
    cluster: Cluster,
    client: Client,
    ledger: Ledger,
    rabbitmq_node: RabbitMQNode,
    amqp_vhost: VirtualHost,
    measured: Measured,
) -> None:
    await cluster.start(concurrency=2)
    await client.load(80, {"seconds": 0.3}, clients=16)
    await until(lambda: _published(ledger), 30, "everything is published")
    rabbitmq_node.purge(QUEUE, amqp_vhost.name)
    purged = time.monotonic()
    assert await ledger.count("queued"), "there was no backlog left to lose"
    await check(ledger, client, cluster.journal, within=70)
    measured("from the purge to the last job", time.monotonic() - purged, 60)


@pytest.mark.fault("F36", moment="at start")
async def test_a_queue_that_somebody_declared_otherwise(
    cluster: Cluster, client: Client, ledger: Ledger, rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost
) -> None:
    """Nothing crashes and nothing is lost; once the wrong queue is gone, all is well."""
    async with await aio_pika.connect(amqp_vhost.url) as connection:
        await (await connection.channel()).declare_queue(QUEUE, durable=True, arguments={"x-message-ttl": 60_000})
    await cluster.start()
    ids = await client.load(30)
    await until(lambda: "queue_refused" in cluster.workers[0].log(10_000), 30, "the worker says so")
    assert all(service.running for service in cluster.services)
    await asyncio.sleep(5)  # the only way to see that no storm comes
    assert cluster.workers[0].log(10_000).count("queue_refused") <= 2, "it is looked at every 15 s"
    assert "consumer_lost" not in cluster.workers[0].log(10_000)
    assert await ledger.count("queued") == len(ids)
    rabbitmq_node.delete_queue(QUEUE, amqp_vhost.name)
    await check(ledger, client, cluster.journal, within=60)
    assert {call.status for call in client.calls} == {202}


@pytest.mark.fault("F37", moment="backlog")
async def test_a_queue_that_is_full(
    cluster: Cluster, client: Client, ledger: Ledger, rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost
) -> None:
    await cluster.start(workers=1)
    await client.load(5)
    cluster.workers[0].kill()
    await asyncio.to_thread(rabbitmq_node.limit_queues, f"^{QUEUE}$", 10, amqp_vhost.name)
    await client.load(60)
    await until(lambda: _ten_published(ledger), 30, "the queue is full")
    assert not await _published(ledger), "a refused message was taken for published"
    cluster.workers[0].start()
    await check(ledger, client, cluster.journal)
    assert {call.status for call in client.calls} == {202}


async def _published(ledger: Ledger) -> bool:
    return not await ledger.value("SELECT count(*) FROM outbox WHERE NOT published")


async def _ten_published(ledger: Ledger) -> bool:
    return bool(await ledger.value("SELECT count(*) FROM outbox WHERE published") >= 10)


def _begun(cluster: Cluster, job_id: str) -> bool:
    return any(line.job_id == job_id for line in effects.read(cluster.journal))
