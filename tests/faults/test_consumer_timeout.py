"""Jobs that run for longer than the broker lets a message stay unacked: each finishes once (contract section 5)."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

CONSUMER_TIMEOUT = 60.0  # seconds; RabbitMQ looks once a minute
JOB = 180.0  # seconds
OTHER = "others"


@pytest.fixture
def impatient() -> Iterator[RabbitMQNode]:
    node = RabbitMQNode({"consumer_timeout": f"{CONSUMER_TIMEOUT * 1000:.0f}"})
    try:
        node.start()
        yield node
    finally:
        node.remove()


@pytest.mark.fault("F39", moment="jobs run")
async def test_jobs_longer_than_the_consumer_timeout_finish_once(
    cluster: Cluster, client: Client, ledger: Ledger, impatient: RabbitMQNode
) -> None:
    """One worker acks early, as it should; the other does not, loses its channel, and its job finishes all the same."""
    cluster.env["ACCEPTED_BROKER_URL"] = impatient.url
    await asyncio.gather(
        cluster.add_api(cluster.port),
        cluster.add_scheduler(),
        cluster.add_worker(4, env={"ACCEPTED_ACK_WITHIN": "20"}),
        cluster.add_worker(4, queues=OTHER, env={"ACCEPTED_ACK_WITHIN": "600"}),
    )
    early, late = cluster.workers
    await asyncio.gather(client.accept({"seconds": JOB}), client.accept({"seconds": JOB}, queue=OTHER))
    await until(lambda: len(effects.read(cluster.journal)) == 2, 30, "both have begun")
    await until(lambda: "consumer_lost" in late.log(10_000), JOB, "the broker closed the channel", interval=1)
    await client.load(5)
    await client.accept(queue=OTHER)
    jobs = await check(ledger, client, cluster.journal, within=JOB + 30)
    assert {job["attempt"] for job in jobs.values()} == {1}, "a job ran twice"
    assert len(effects.of(effects.read(cluster.journal), "started")) == len(jobs)
    assert "consumer_lost" not in early.log(10_000), "acked early, and yet the broker closed the channel"
