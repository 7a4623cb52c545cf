"""Lines of jobs while workers are killed in the middle of them: the order of effects is the order of acceptance."""

import asyncio
import itertools
import random

import pytest

from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.support.servers.addresses import BROKERS
from tests.support.waiting import until

LEASE = 2.0  # seconds


@pytest.fixture(params=BROKERS)
def on_either_broker(request: pytest.FixtureRequest, cluster: Cluster) -> None:
    cluster.env["ACCEPTED_LEASE_TTL"] = f"{LEASE:g}"
    if request.param == "postgres":
        cluster.env["ACCEPTED_BROKER_URL"] = "postgres"


@pytest.mark.fault("F07", moment="lines of jobs run")
@pytest.mark.usefixtures("on_either_broker")
@pytest.mark.parametrize(
    ("keys", "jobs", "kills"),
    [
        pytest.param(5, 6, 2, id="some"),
        pytest.param(1, 200, 10, id="one long line", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
        pytest.param(50, 20, 20, id="many lines", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
async def test_effects_come_in_the_order_accepted(
    cluster: Cluster, client: Client, ledger: Ledger, keys: int, jobs: int, kills: int
) -> None:
    await cluster.start(workers=3, concurrency=4)
    lines: dict[str, list[str]] = {f"key {n}": [] for n in range(keys)}
    failed: set[str] = set()

    async def fill(key: str) -> None:
        for number in range(jobs):
            payload = {"seconds": 0.01}
            if number % 7 == 2:
                payload |= {"die_attempts": 1}
            if number % 7 == 5:
                payload |= {"fail_text": "no"}
            retry = {"max_attempts": 3, "schedule": [0.1], "jitter": 0.0}
            id = await client.accept(payload, ordering_key=key, retry=retry)
            lines[key].append(id)
            if "fail_text" in payload:
                failed.add(id)

    filling = asyncio.gather(*map(fill, lines))
    killing = asyncio.create_task(_kill_and_start(cluster, kills))
    await filling
    await ledger.drained(400)
    given_up = {id for id, job in (await ledger.jobs()).items() if job["error"] == "crashed" and job["crashes"] == 3}
    await check(ledger, client, cluster.journal, failed=failed | given_up)
    killing.cancel()
    await asyncio.wait([killing])

    seen = effects.read(cluster.journal)
    for ids in lines.values():
        mine = [line for line in seen if line.job_id in ids]
        begun = {line.job_id for line in mine}
        ids = [id for id in ids if id in begun or id not in given_up]  # three workers may die before it has begun
        assert [id for id, _ in itertools.groupby(line.job_id for line in mine)] == ids


async def _kill_and_start(cluster: Cluster, kills: int) -> None:
    """Workers that killed themselves, by `die_attempts`, are started again too."""
    for _ in range(kills):
        begun = len(effects.read(cluster.journal))
        target = begun + random.randint(3, 12)
        await until(lambda target=target: _more(cluster, target), 120, "some jobs run")
        victim = random.choice(cluster.workers)
        if victim.running:
            victim.kill()
    while True:
        await _more(cluster, 0)
        await asyncio.sleep(0.2)


async def _more(cluster: Cluster, target: int) -> bool:
    for worker in cluster.workers:
        if not worker.running:
            worker.start()
    return len(effects.read(cluster.journal)) >= target
