"""Workers that die, hang and come back, in the middle of their jobs."""

import asyncio
import random
import signal
import time

import pytest

from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.servers.receiver import Receiver
from tests.support.waiting import until

LEASE = 2.0  # seconds
SLOTS = 3


@pytest.fixture(autouse=True)
def _short_lease(cluster: Cluster) -> None:
    cluster.env["ACCEPTED_LEASE_TTL"] = f"{LEASE:g}"


@pytest.mark.fault("F07", moment="jobs run")
async def test_jobs_of_a_killed_worker_run_again_within_two_leases(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    await cluster.start(workers=1)
    await client.load(5, {"seconds": 600, "slow_attempts": 1})
    await until(lambda: len(effects.read(cluster.journal)) == 5, 30, "all five begun")
    await cluster.add_worker()

    cluster.workers[0].kill()
    killed = time.time()

    await until(lambda: len(effects.of(effects.read(cluster.journal), "started", 2)) == 5, 30, "all five begun again")
    again = effects.of(effects.read(cluster.journal), "started", 2)
    measured("from kill -9 to the last second run", max(line.at for line in again) - killed, 2 * LEASE)
    jobs = await check(ledger, client, cluster.journal)
    assert {job["crashes"] for job in jobs.values()} == {1}
    for job_id in client.ids:
        assert await ledger.outcomes(job_id) == ["crashed", "succeeded"]


@pytest.mark.fault("F07", moment="under load")
async def test_workers_killed_at_random_moments_under_load(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await cluster.start(concurrency=4)
    load = asyncio.create_task(client.load(150, {"seconds": 0.05}))
    for victim in (0, 1, 0):
        target = len(effects.read(cluster.journal)) + random.randint(5, 40)
        await until(lambda target=target: len(effects.read(cluster.journal)) >= target, 60, "some jobs run")
        cluster.workers[victim].kill()
        cluster.workers[victim].start()
    await load
    await check(ledger, client, cluster.journal)


@pytest.mark.fault("F97", moment="under load")
async def test_a_worker_killed_with_jobs_that_it_has_claimed_ahead(
    cluster: Cluster, client: Client, ledger: Ledger
) -> None:
    await cluster.start(workers=1)
    cluster.workers[0].kill()
    await client.load(1000, {"seconds": 0})
    worker = await cluster.add_worker(SLOTS, effects.QUEUE)
    ahead = f"SELECT count(*) > {SLOTS} FROM attempts WHERE finished_at IS NULL"
    await until(lambda: ledger.value(ahead), 60, "more jobs to be claimed than there are slots", interval=0.001)
    worker.kill()
    await cluster.add_worker()
    jobs = await check(ledger, client, cluster.journal)
    assert {job["crashes"] for job in jobs.values()} <= {0, 1}
    assert {job["status"] for job in jobs.values()} == {"succeeded"}


@pytest.mark.fault("F10", moment="jobs run")
async def test_a_worker_that_slept_past_its_lease_cannot_write(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    await cluster.start(workers=0)
    # All slots are taken, and it runs no deliveries: the broker gives the zombie nothing more.
    zombie = await cluster.add_worker(3, effects.QUEUE)
    async with Receiver() as receiver:
        for _ in range(3):
            await client.accept({"seconds": 0.5, "slow_attempts": 1}, callback_url=receiver.url)
        await until(lambda: len(effects.read(cluster.journal)) == 3, 30, "all three begun")
        zombie.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        finished_before = {line.job_id for line in effects.of(effects.read(cluster.journal), "finished")}
        assert not finished_before, "the machine was too slow to stop the worker in the middle"
        await cluster.add_worker()
        await until(lambda: _all_succeeded(ledger, 3), 30, "the other worker has done them")
        measured("from SIGSTOP to the success elsewhere", time.monotonic() - stopped, 15)
        before = await ledger.jobs()

        zombie.signal(signal.SIGCONT)

        await until(lambda: zombie.log(10_000).count("outcome_fenced") == 3, 30, "the zombie was held off")
        assert await ledger.jobs() == before
        jobs = await check(ledger, client, cluster.journal)
        assert all(job["result"] == '{"attempt":2}' for job in jobs.values())
        for job_id in client.ids:
            assert await ledger.outcomes(job_id) == ["crashed", "succeeded"]
        assert len(receiver.requests) == 3, "one webhook a job"
        await client.accept()
        await check(ledger, client, cluster.journal)


@pytest.mark.slow
@pytest.mark.fault("F16", moment="idle")
async def test_a_job_that_kills_its_worker_is_given_up_and_holds_up_nobody(
    cluster: Cluster, client: Client, ledger: Ledger
) -> None:
    await cluster.start(workers=1)
    poison = await client.submit({"die_attempts": 1000}, retry={"max_attempts": 10})
    for _ in range(2):
        await until(lambda: not cluster.workers[0].running, 30, "the worker is taken along")
        cluster.workers[0].start()
    await client.load(5)
    assert poison.job_id is not None
    jobs = await check(ledger, client, cluster.journal, within=30, failed={poison.job_id})
    dead = jobs.pop(poison.job_id)
    assert (dead["status"], dead["error"], dead["attempt"]) == ("failed", "crashed", 3)
    assert {job["status"] for job in jobs.values()} == {"succeeded"}
    assert cluster.workers[0].running, "the third time it takes no worker along"


async def test_an_error_whose_text_is_no_unicode_ends_its_attempt(
    cluster: Cluster, client: Client, ledger: Ledger
) -> None:
    """As the name of a file that is not UTF-8 makes one; the job must not stay `running` for ever."""
    await cluster.start(workers=1)
    call = await client.submit({"fail_text": r"no such file: \udcff\u0000"}, retry={"max_attempts": 1})
    await ledger.drained(15)
    assert call.job_id is not None
    assert (await ledger.jobs())[call.job_id]["status"] == "failed"


async def _all_succeeded(ledger: Ledger, count: int) -> bool:
    return await ledger.count("succeeded") == count
