"""What the service says of a job that waits, and that nobody who cannot run it takes it, while something is away."""

import asyncio
import time
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.faults import effects, served_elsewhere
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.servers.receiver import Answer, Receiver
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WITH_THE_TYPE = {"ACCEPTED_HANDLERS": "accepted_worker.handlers,tests.faults.effects,tests.faults.served_elsewhere"}
TAKEN = "SELECT due_at > now() FROM outbox WHERE job_id = $1::uuid"
MADE = "SELECT count(*) FROM attempts t JOIN jobs j ON j.id = t.job_id WHERE j.type = $1"


@pytest.mark.fault("F60", moment="broker away")
async def test_explain_says_since_when_the_broker_is_away(
    cluster: Cluster, client: Client, ledger: Ledger, rabbitmq_node: RabbitMQNode
) -> None:
    """Also while the relay, which tries again and again, holds the job."""
    await cluster.start(workers=1)
    await client.load(5)
    await asyncio.to_thread(rabbitmq_node.stop)
    job_id = await client.accept()

    async def said() -> dict[str, Any] | None:
        found = await explained(cluster, job_id)
        return found if found["reason"] == "broker_away" else None

    await until(said, 30, "explain to say it")
    await until(lambda: ledger.value(TAKEN, job_id), 30, "the relay to have taken it")
    found = await said()
    assert found is not None
    job = await get(cluster, f"/jobs/{job_id}")
    assert found["since"] == job["run_at"]
    assert datetime.fromisoformat(found["since"]).timestamp() < time.time() - 3
    await asyncio.to_thread(rabbitmq_node.start)
    await check(ledger, client, cluster.journal)


@pytest.mark.fault("F60", moment="host held")
async def test_explain_says_until_when_a_host_is_held(cluster: Cluster, client: Client) -> None:
    await cluster.start(workers=2)
    async with Receiver(lambda _: Answer(429, headers={"retry-after": "600"})) as host:
        key, call = f"127.0.0.1:{host.port}", {"type": "http.request", "payload": {"url": host.url}}
        first = await post(cluster, {**call, "queue": effects.QUEUE})

        async def held() -> dict[str, Any] | None:
            found = await get(cluster, f"/targets/{key}")
            return found if found.get("state") == "open" else None

        until_ = (await until(held, 30, "the host to be held"))["deferred_until"]
        jobs = [await post(cluster, {**call, "queue": effects.QUEUE}) for _ in range(11)]

        async def waiting() -> bool:
            found = await explained(cluster, jobs[0]["id"])
            return found["reason"] == "target_held" and bool(found["waiting"] == len(jobs))

        await until(waiting, 30, "all of them to wait")
        for job in jobs:
            found = await explained(cluster, job["id"])
            assert (found["reason"], found["target"], found["deferred_until"]) == ("target_held", key, until_)
        for job in [first, *jobs]:
            assert (await post(cluster, None, f"/jobs/{job['id']}/cancel"))["status"] == "cancelled"


@pytest.mark.fault("F61", moment="under load")
async def test_jobs_that_nobody_serves_wait_and_hold_up_nobody(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    """Their worker is stopped, the others die and come back: there is no attempt until one with the type is there."""
    await cluster.start(workers=1)
    able = await cluster.add_worker(env=WITH_THE_TYPE)
    await until(lambda: _known(cluster), 30, "the type to be known")
    assert await able.terminate() == 0
    foreign = [await client.accept(type=served_elsewhere.TYPE) for _ in range(30)]
    begun = time.monotonic()
    ours = await client.load(60)
    await until(lambda: _all_ended(ledger, ours), 60, "the others to end")
    measured("from the first to the last of those behind them", time.monotonic() - begun, 60)
    found = await explained(cluster, foreign[0])
    assert (found["reason"], found["type"]) == ("no_worker_for_type", served_elsewhere.TYPE)
    cluster.workers[0].kill()
    await cluster.restart_worker(cluster.workers[0])
    await client.load(10)
    assert await ledger.value(MADE, served_elsewhere.TYPE) == 0
    back = time.monotonic()
    able.start()
    await check(ledger, client, cluster.journal)
    measured("from the start of their worker to the last of them", time.monotonic() - back, 60)
    assert await ledger.value(MADE, served_elsewhere.TYPE) == len(foreign)


async def _known(cluster: Cluster) -> bool:
    return served_elsewhere.TYPE in {one["name"] for one in (await get(cluster, "/job-types"))["items"]}


async def _all_ended(ledger: Ledger, ids: list[str]) -> bool:
    sql = "SELECT count(*) FROM jobs WHERE id = ANY($1::uuid[]) AND status = 'succeeded'"
    return bool(await ledger.value(sql, ids) == len(ids))


async def explained(cluster: Cluster, job_id: str) -> dict[str, Any]:
    return await get(cluster, f"/jobs/{job_id}/explain")


async def get(cluster: Cluster, path: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=15) as http:
        found: dict[str, Any] = (await http.get(path)).json()
    return found


async def post(cluster: Cluster, body: Any, path: str = "/jobs") -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=15) as http:
        answer = await http.post(path, json=body) if body is not None else await http.post(path)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found
