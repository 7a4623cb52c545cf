"""SIGTERM under load: what a worker cannot finish within its grace goes back, and nothing is burned."""

import asyncio
import time

import pytest

from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.waiting import until

GRACE = 5.0  # seconds


@pytest.mark.fault("F13", moment="under load")
async def test_a_worker_told_to_stop_hands_back_what_it_cannot_finish(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    cluster.env["ACCEPTED_SHUTDOWN_GRACE"] = f"{GRACE:g}"
    await cluster.start(workers=1, concurrency=8)
    long = await client.load(4, {"seconds": 600, "slow_attempts": 1}, clients=4)
    await until(lambda: len(effects.read(cluster.journal)) == 4, 30, "the long ones have begun")
    short = asyncio.create_task(client.load(100, {"seconds": 0.1}))
    await until(
        lambda: len(effects.of(effects.read(cluster.journal), "finished")) >= 10, 30, "some short ones are done"
    )

    async def stop() -> tuple[int, float]:
        told = time.monotonic()
        return await cluster.workers[0].terminate(GRACE + 10), time.monotonic() - told

    (exit_code, seconds), _, _ = await asyncio.gather(stop(), cluster.add_worker(), short)
    assert exit_code == 0
    measured("from SIGTERM to the exit", seconds, GRACE + 2)

    jobs = await check(ledger, client, cluster.journal)
    assert sum(job["crashes"] for job in jobs.values()) == 0
    for job_id in long:
        assert await ledger.outcomes(job_id) == ["handed_back", "succeeded"]
        assert (jobs[job_id]["attempt"], jobs[job_id]["max_attempts"]) == (2, 6)
    assert not await ledger.value("SELECT count(*) FROM attempts WHERE outcome = 'crashed'")


@pytest.mark.slow
@pytest.mark.fault("F13", moment="under load")
async def test_workers_replaced_one_after_another_under_load(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await cluster.start(concurrency=4)
    load = asyncio.create_task(client.load(120, {"seconds": 0.05}))
    for turn in (0, 1, 0):
        before = len(client.ids)
        await until(lambda before=before: len(client.ids) > before + 10 or load.done(), 60, "some more accepted")
        assert await cluster.workers[turn].terminate(20) == 0
        await cluster.restart_worker(cluster.workers[turn])
    await load
    jobs = await check(ledger, client, cluster.journal)
    assert all(job["crashes"] == 0 for job in jobs.values())
    assert not await ledger.value("SELECT count(*) FROM attempts WHERE outcome NOT IN ('succeeded', 'handed_back')")
