"""The API killed at any moment: what it has answered holds, and what it has not can be asked again."""

import asyncio
import random

import pytest

from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.support.waiting import until


@pytest.mark.fault("F01", moment="under load")
async def test_the_api_killed_at_random_moments_under_load(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await cluster.start()
    load = asyncio.create_task(client.load(250, clients=16))
    for _ in range(3):
        target = len(client.ids) + random.randint(10, 50)
        await until(lambda target=target: len(client.ids) >= target, 60, "some answers", interval=0.001)
        cluster.api.kill()
        cluster.api.start()
        await cluster.api_ready()
    await load

    jobs = await check(ledger, client, cluster.journal)
    assert len(jobs) == 250
    assert {call.status for call in client.calls} <= {202, 503, None}
    assert any(call.status is None for call in client.calls), "nobody was cut off: the kills came too late"


@pytest.mark.fault("F14", moment="under load")
async def test_the_api_told_to_stop_under_load_answers_what_it_holds(
    cluster: Cluster, client: Client, ledger: Ledger
) -> None:
    await cluster.start()
    load = asyncio.create_task(client.load(120, clients=8))
    await until(lambda: len(client.ids) >= 40, 60, "some answers", interval=0.001)
    assert await cluster.api.terminate(20) == 0
    cluster.api.start()
    await load
    assert await cluster.scheduler.terminate(20) == 0
    cluster.scheduler.start()
    await check(ledger, client, cluster.journal)
