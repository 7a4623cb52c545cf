"""The power fails: ledger, broker and every process at once, and all of it comes back in no particular order."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until


@pytest.mark.fault("F57", moment="under load")
async def test_everything_killed_at_once_and_started_in_any_order(
    cluster: Cluster,
    client: Client,
    ledger: Ledger,
    postgres_server: PostgresServer,
    rabbitmq_node: RabbitMQNode,
    measured: Measured,
) -> None:
    await cluster.start(concurrency=4)
    load = asyncio.create_task(client.load(150, {"seconds": 0.05}))
    await until(lambda: len(client.ids) >= 50, 60, "a third of them accepted", interval=0.001)
    services = [cluster.api, cluster.scheduler, *cluster.workers]
    kills: list[Callable[[], None]] = [postgres_server.kill, rabbitmq_node.kill, *(one.kill for one in services)]
    await asyncio.gather(*(asyncio.to_thread(kill) for kill in kills))

    starts: list[Callable[[], object]] = [postgres_server.start, rabbitmq_node.start, *(one.start for one in services)]
    random.shuffle(starts)
    for start in starts:
        await asyncio.to_thread(start)
    back = time.monotonic()

    await load
    await check(ledger, client, cluster.journal)
    measured("from the last start to the last job", time.monotonic() - back, 60)
    assert all(service.running for service in services)
