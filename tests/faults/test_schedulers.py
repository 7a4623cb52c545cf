"""Two schedulers: one is stopped with rows in its hands, the other does its work, the first comes back."""

import signal
import time

import pytest

from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

HOLD = 10.0  # seconds for which rows that a relay took are its own


@pytest.mark.fault("F06", moment="rows in its hands")
async def test_a_scheduler_stopped_with_rows_in_its_hands_and_continued(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    failpoint = cluster.failpoint("relay after taking")
    await cluster.start(schedulers=0)
    stopped = await cluster.add_scheduler(failpoint.waiting_env)
    for _ in range(40):
        await client.accept(delay=0.5)
    await until(lambda: failpoint.reached, 30, "the relay has rows in its hands")
    stopped.signal(signal.SIGSTOP)
    begun = time.monotonic()
    await cluster.add_scheduler()
    await until(lambda: _all(ledger, len(client.ids)), 60, "the other scheduler has had them run")
    measured("from SIGSTOP to the last job", time.monotonic() - begun, 4 * HOLD)
    before = await ledger.jobs()
    failpoint.go_on()
    stopped.signal(signal.SIGCONT)
    await client.load(20)
    jobs = await check(ledger, client, cluster.journal)
    assert {job_id: jobs[job_id] for job_id in before} == before
    assert {job["attempt"] for job in jobs.values()} == {1}


@pytest.mark.fault("F06", moment="under load")
async def test_schedulers_stopped_and_killed_in_turn_under_load(
    cluster: Cluster, client: Client, ledger: Ledger
) -> None:
    await cluster.start(schedulers=2)
    first, second = cluster.schedulers
    for victim, spared in ((first, second), (second, first), (first, second)):
        victim.signal(signal.SIGSTOP)
        await client.load(40, {"seconds": 0.02})
        spared.kill()
        victim.signal(signal.SIGCONT)
        await client.load(20, {"seconds": 0.02})
        spared.start()
    await check(ledger, client, cluster.journal)


async def _all(ledger: Ledger, count: int) -> bool:
    return await ledger.count("succeeded") == count
