"""Cancels at every moment: each job ends in exactly one way, and what was cancelled before it started never starts."""

import asyncio
import random
import time
from dataclasses import dataclass

import httpx
import pytest

from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

JOBS = 150
PROMISED = 2.0  # seconds from a cancel to the end of a job whose handler is async
ACCEPTED, CONFLICT = 202, 409


@dataclass(frozen=True)
class Said:
    """What one cancel was answered, and when."""

    job_id: str
    http: int
    job_status: str
    at: float


@pytest.mark.fault("F54", moment="any")
async def test_cancels_race_start_and_completion(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    """Each job is cancelled twice at once, some time after it was accepted."""
    await cluster.start(concurrency=4)
    said = await _all_cancelled_at_random(cluster, client)
    await _judge(cluster, client, ledger, said)


@pytest.mark.fault("F54", moment="any")
async def test_cancels_while_workers_are_killed(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    cluster.env["ACCEPTED_LEASE_TTL"] = "2"
    await cluster.start(concurrency=4)
    cancelling = asyncio.create_task(_all_cancelled_at_random(cluster, client))
    for victim in (0, 1):
        before = len(effects.read(cluster.journal))
        await until(lambda before=before: len(effects.read(cluster.journal)) > before + 10, 60, "some jobs run")
        cluster.workers[victim].kill()
        cluster.workers[victim].start()
    await _judge(cluster, client, ledger, await cancelling)


@pytest.mark.fault("F54", moment="jobs run")
async def test_running_jobs_end_when_they_are_cancelled(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    await cluster.start()
    ids = [await client.accept({"seconds": 600}) for _ in range(8)]
    await until(lambda: len(effects.read(cluster.journal)) == len(ids), 30, "all begun")
    begun = time.monotonic()
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=15) as http:
        await asyncio.gather(*(_cancel(http, job_id) for job_id in ids))
    await until(lambda: _cancelled(ledger, len(ids)), 15, "all cancelled")
    measured("from the cancel to the last end", time.monotonic() - begun, 2 * PROMISED)
    await check(ledger, client, cluster.journal, cancelled=set(ids))


async def _all_cancelled_at_random(cluster: Cluster, client: Client) -> list[Said]:
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=15) as http:
        turn = asyncio.Semaphore(16)

        async def one() -> list[Said]:
            async with turn:
                job_id = await client.accept({"seconds": random.choice([0, 0.02, 0.3])}, delay=random.choice([0, 0.3]))
                await asyncio.sleep(random.uniform(0, 0.5))  # the moment is the thing under test
                return list(await asyncio.gather(*(_cancel(http, job_id) for _ in range(2))))

        return [said for pair in await asyncio.gather(*(one() for _ in range(JOBS))) for said in pair]


async def _cancel(http: httpx.AsyncClient, job_id: str) -> Said:
    answer = await http.post(f"/jobs/{job_id}/cancel")
    status = answer.json()["status"] if answer.status_code == ACCEPTED else ""
    return Said(job_id, answer.status_code, str(status), time.time())


async def _judge(cluster: Cluster, client: Client, ledger: Ledger, said: list[Said]) -> None:
    assert {one.http for one in said} == {ACCEPTED, CONFLICT}
    await ledger.drained(60)
    jobs = await ledger.jobs()
    cancelled = {job_id for job_id, job in jobs.items() if job["status"] == "cancelled"}
    assert 0 < len(cancelled) < JOBS, "the race had but one winner"
    promised = {one.job_id: one.at for one in said if one.job_status == "cancelled"}
    assert promised.keys() <= cancelled
    late = [
        line for line in effects.of(effects.read(cluster.journal), "started")
        if line.at > promised.get(line.job_id, float("inf"))
    ]  # fmt: skip
    assert not late, f"started after their cancel was acknowledged: {late[:5]}"
    await check(ledger, client, cluster.journal, cancelled=cancelled)


async def _cancelled(ledger: Ledger, count: int) -> bool:
    return await ledger.count("cancelled") == count
