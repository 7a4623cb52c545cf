"""Rows that cannot be used: a type, schedules, limits and policies. What is wrong with one stops no other."""

import asyncio
from typing import Any

import httpx
import pytest

from accepted.storage import job_types
from accepted.storage.db.engine import create_engine, transaction
from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import QUEUES, Cluster
from tests.support.handlers.unusable import scan
from tests.support.service.in_process_worker import handlers_of
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ODD_QUEUE = "odd"

SCHEDULES = ("bad-line", "bad-zone", "bad-job", "good")


@pytest.mark.fault("F68", moment="at start")
async def test_a_worker_with_a_type_that_no_api_can_use(cluster: Cluster) -> None:
    """It does not start, and says which type and which field."""
    cluster.env["ACCEPTED_HANDLERS"] += ",tests.support.handlers.unusable"
    worker = cluster.run("worker")
    assert await worker.wait_exit() == 1
    (line,) = [line for line in worker.log().splitlines() if line.startswith("accepted: ")]
    assert "'scan'" in line
    assert "field 'document'" in line
    assert "Traceback" not in worker.log()


@pytest.mark.fault("F68", moment="under load")
async def test_rows_that_cannot_be_used(cluster: Cluster, client: Client, ledger: Ledger, database_url: str) -> None:
    await asyncio.gather(
        cluster.add_api(cluster.port),
        cluster.add_scheduler(),
        cluster.add_worker(queues=f"{QUEUES},{ODD_QUEUE}"),
    )
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=30) as http:
        for name in SCHEDULES:
            body = {"cron": "0 0 1 1 *", "job": {"type": effects.TYPE, "metadata": {"key": name}}}
            assert (await http.put(f"/schedules/{name}", json=body)).status_code == 201
        client.attempted.add("good")
        limits = {"rate_limit": {"jobs": 100, "per": 1}}
        assert (await http.patch(f"/queues/{ODD_QUEUE}", json=limits)).status_code == 200
        await client.load(20)
        loading = asyncio.create_task(client.load(200))
        await _register_as_older_workers_did(database_url)
        await ledger.execute(
            "UPDATE queues SET rate_jobs = 0 WHERE name = 'odd'",
            "UPDATE schedules SET cron = 'every day' WHERE name = 'bad-line'",
            "UPDATE schedules SET timezone = 'Mars/Phobos' WHERE name = 'bad-zone'",
            "UPDATE schedules SET job = '[]' WHERE name = 'bad-job'",
        )
        held = [await client.accept(queue=ODD_QUEUE) for _ in range(3)]
        await ledger.execute("UPDATE jobs SET retry = '[]' WHERE queue = 'odd'")
        await loading
        await cluster.api.terminate()
        cluster.api.start()
        await cluster.api_ready()
        await client.load(50)
        assert {call.status for call in client.calls} == {202}, "no request of a neighbor notices"

        shown = {one["name"]: one for one in (await http.get("/job-types")).json()["items"]}
        assert "field 'document'" in shown["scan"]["problem"]
        assert (await http.post("/jobs", json={"type": "scan"})).status_code == 422
        assert (await http.get("/schedules")).status_code == 200

        await ledger.execute("UPDATE schedules SET next_at = now() - interval '1 second'")
        outcomes = {name: await until(lambda name=name: _outcome(http, name), 30, "a run") for name in SCHEDULES}
        assert outcomes == {"bad-line": "failed", "bad-zone": "failed", "bad-job": "failed", "good": "fired"}
        await ledger.execute("UPDATE schedules SET enabled = false")

        assert (await ledger.fetch("SELECT count(*) FROM jobs WHERE queue = 'odd' AND status = 'queued'"))[0][0] == 3
        assert (await http.patch(f"/queues/{ODD_QUEUE}", json=limits)).status_code == 200
        for job_id in held:
            await until(lambda job_id=job_id: _succeeded(http, job_id), 30, "the jobs whose limit was mended")
    scheduler = cluster.scheduler.log(100_000)
    assert scheduler.count('"row_unusable"') == 1, "said once, however many rounds"
    await check(ledger, client, cluster.journal)


async def _register_as_older_workers_did(database_url: str) -> None:
    """Before a worker refused to start with such a type."""
    engine = create_engine(database_url)
    async with transaction(engine) as conn:
        await job_types.register(conn, [handlers_of(scan)["scan"].type])
        await conn.commit()
    await engine.dispose()


async def _outcome(http: httpx.AsyncClient, name: str) -> str | None:
    runs: list[dict[str, Any]] = (await http.get(f"/schedules/{name}/runs")).json()["items"]
    return runs[0]["outcome"] if runs else None


async def _succeeded(http: httpx.AsyncClient, job_id: str) -> bool:
    return bool((await http.get(f"/jobs/{job_id}")).json()["status"] == "succeeded")
