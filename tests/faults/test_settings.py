"""Settings changed under load: what GET says after a change is what holds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from accepted.domain.tenants import SCOPES
from accepted.services import keys
from accepted.storage.db.engine import create_engine
from tests.faults.checker import Ledger
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.settings import BACKLOG, CHOICES, DAY, ELSEWHERE, GOES_ON, RUNNING, RUNS, TENANTS, Stage, bearer, held
from tests.faults.table import Measured
from tests.support.servers.ports import free_port
from tests.support.waiting import until

FAST = {"rate_limit": {"jobs": 100, "per": 1}}
SLOW = {"rate_limit": {"jobs": 1, "per": DAY}}
WAYS: dict[str, list[dict[str, Any]]] = {
    "raised": [FAST],
    "removed": [{"rate_limit": None}],
    "through-null": [{"rate_limit": None}, FAST],
    "through-a-pause": [SLOW | {"paused": True}, FAST | {"paused": False}],
}

SUCCEEDED = "SELECT count(*) FROM jobs WHERE queue = $1 AND status = 'succeeded'"


@pytest.mark.fault("F62", moment="jobs run, and settings change at random")
@pytest.mark.parametrize(
    ("broker", "changes", "seed"),
    [
        ("rabbitmq", 60, 1),
        pytest.param("rabbitmq", 500, 2, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
        pytest.param("postgres", 500, 3, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
async def test_what_get_says_after_a_change_is_what_holds(
    cluster: Cluster, ledger: Ledger, measured: Measured, broker: str, changes: int, seed: int
) -> None:
    if broker == "postgres":
        cluster.env["ACCEPTED_BROKER_URL"] = "postgres"
    async with _staged(cluster, ledger, seed) as stage:
        loading = asyncio.create_task(stage.load())
        for _ in range(changes):
            await stage.change()
            assert not loading.done(), loading
        loading.cancel()
        await asyncio.wait([loading])
        for queue in stage.queues.values():
            await stage.patch(queue, {"paused": False, **dict.fromkeys([*CHOICES][1:])})
        await until(lambda: _is_done(ledger), 60, "all jobs to end")
    for queue in stage.queues.values():
        runs = await ledger.fetch(RUNS, queue.name)
        assert len(runs) >= BACKLOG
        for window in queue.windows:
            held(window, runs)
    late = sorted(stage.delays)
    measured("a setting elsewhere, 95 of 100", late[int(len(late) * 0.95)], ELSEWHERE)


@pytest.mark.fault("F63", moment="a job waits for its turn")
async def test_a_changed_rate_lets_the_next_job_go_at_once(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    await asyncio.gather(cluster.add_api(cluster.port), cluster.add_scheduler(), cluster.add_worker(10, ",".join(WAYS)))
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False) as http:

        async def change(queue: str, limits: dict[str, Any]) -> None:
            assert (await http.patch(f"/queues/{queue}", json=limits)).status_code == 200

        async def done(queue: str, count: int, within: float) -> float:
            begun = asyncio.get_running_loop().time()
            await until(lambda: has_done(queue, count), within, f"{count} jobs of {queue}")
            return asyncio.get_running_loop().time() - begun

        async def has_done(queue: str, count: int) -> bool:
            return bool(await ledger.value(SUCCEEDED, queue) >= count)

        for queue, changes in WAYS.items():
            await change(queue, SLOW)
            for _ in range(2):
                await client.accept(queue=queue)
            await done(queue, 1, 20)
            for limits in changes:
                await change(queue, limits)
            measured(f"rate {queue}", await done(queue, 2, 20), GOES_ON)


@asynccontextmanager
async def _staged(cluster: Cluster, ledger: Ledger, seed: int) -> AsyncIterator[Stage]:
    cluster.env["ACCEPTED_AUTH"] = "required"
    ports = cluster.port, free_port()
    await asyncio.gather(
        *map(cluster.add_api, ports), cluster.add_scheduler(), cluster.add_worker(10, ",".join(RUNNING))
    )
    engine = create_engine(ledger.url)
    admin = (await keys.create(engine, "main", "admin", list(SCOPES)))[1]
    apis = [
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=bearer(admin), trust_env=False, timeout=10)
        for port in ports
    ]
    stage = Stage(seed, ledger, engine, apis)
    for tenant in TENANTS:
        stage.tenant_keys[tenant] = (await keys.create(engine, tenant, "n", list(SCOPES)))[1]
    for queue in stage.queues.values():
        await stage.patch(queue, {"max_running": 5})
    try:
        yield stage
    finally:
        for api in apis:
            await api.aclose()
        await engine.dispose()


async def _is_done(ledger: Ledger) -> bool:
    return not await ledger.value(f"SELECT count(*) FROM outbox WHERE queue IN {RUNNING}") and not await ledger.value(
        "SELECT count(*) FROM attempts WHERE finished_at IS NULL"
    )
