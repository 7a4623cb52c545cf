"""Processes that die on a line of our choosing: before and after every COMMIT, confirm, effect and ack."""

import asyncio
import signal
import time

import pytest

from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.service.processes import Service
from tests.support.waiting import until

pytestmark = pytest.mark.slow

JOBS = 40
KILLED = 9  # the exit code of a process that died at its failpoint
LEASE = 2.0  # seconds


@pytest.fixture(autouse=True)
def _short_lease(cluster: Cluster) -> None:
    cluster.env["ACCEPTED_LEASE_TTL"] = f"{LEASE:g}"


@pytest.mark.fault("F03", moment="before COMMIT")
async def test_the_api_dies_before_the_commit(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await _api_dies(cluster, client, ledger, "api before COMMIT")
    assert client.verdict is not None
    assert not any(call.replayed for call in client.calls), "nothing was there to be found"


@pytest.mark.fault("F02", moment="after COMMIT")
async def test_the_api_dies_between_commit_and_answer(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await _api_dies(cluster, client, ledger, "api after COMMIT")
    assert any(call.replayed for call in client.calls), "a job that was there, of which nobody had been told"


@pytest.mark.fault("F02", moment="before the answer")
async def test_the_api_dies_as_it_answers(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await _api_dies(cluster, client, ledger, "api before the answer")


@pytest.mark.fault("F02", "F05", moment="after the confirm")
async def test_the_api_dies_between_confirm_and_marking(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await _api_dies(cluster, client, ledger, "api after the confirm", clients=1)


@pytest.mark.fault("F05", moment="before publishing")
async def test_the_relay_dies_with_rows_in_its_hands(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    await _scheduler_dies(cluster, client, ledger, "relay after taking", measured)


@pytest.mark.fault("F05", moment="after the confirm")
async def test_the_relay_dies_between_confirm_and_marking(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    await _scheduler_dies(cluster, client, ledger, "relay after the confirm", measured)


@pytest.mark.fault("F07", moment="before the claim's COMMIT")
async def test_a_worker_dies_before_its_claim_commits(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await _worker_dies(cluster, client, ledger, "worker before the claim's COMMIT")


@pytest.mark.fault("F07", moment="after the claim's COMMIT")
async def test_a_worker_dies_as_its_claim_has_committed(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await _worker_dies(cluster, client, ledger, "worker after the claim's COMMIT", crashes=True)


@pytest.mark.fault("F08", moment="after the effect")
async def test_a_worker_dies_after_the_effect(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await _worker_dies(cluster, client, ledger, "worker after the effect", crashes=True)
    effected = [line.job_id for line in effects.of(effects.read(cluster.journal), "finished")]
    assert len(effected) > len(set(effected)), "no effect came twice: the worker died too early"


@pytest.mark.fault("F09", moment="before the ack")
async def test_a_worker_dies_between_outcome_and_ack(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await _worker_dies(cluster, client, ledger, "worker after a lone outcome")
    effected = [line.job_id for line in effects.of(effects.read(cluster.journal), "finished")]
    recorded = {job_id for job_id, job in (await ledger.jobs()).items() if job["attempt"] == 1}
    assert all(effected.count(job_id) == 1 for job_id in recorded), "what was recorded did not run again"


@pytest.mark.fault("F11", moment="between finding and ending")
async def test_a_worker_completes_what_the_rescuer_has_just_found(
    cluster: Cluster, client: Client, ledger: Ledger
) -> None:
    failpoint = cluster.failpoint("rescuer between finding and ending")
    await asyncio.gather(
        cluster.add_api(cluster.port), cluster.add_scheduler(failpoint.waiting_env), cluster.add_worker(3)
    )
    ids = [await client.accept({"seconds": 1}) for _ in range(3)]
    await until(lambda: len(effects.read(cluster.journal)) == 3, 30, "all three begun")
    cluster.workers[0].signal(signal.SIGSTOP)
    await until(lambda: failpoint.reached, 30, "the rescuer has found them")
    cluster.workers[0].signal(signal.SIGCONT)
    await until(lambda: _succeeded(ledger, 3), 30, "their worker has completed them")
    before = await ledger.jobs()
    failpoint.go_on()
    await client.accept()
    jobs = await check(ledger, client, cluster.journal)
    assert {job_id: jobs[job_id] for job_id in ids} == before
    assert {job["crashes"] for job in jobs.values()} == {0}


async def _api_dies(cluster: Cluster, client: Client, ledger: Ledger, point: str, clients: int = 8) -> None:
    failpoint = cluster.failpoint(point)
    await asyncio.gather(
        cluster.add_api(cluster.port, failpoint.env),
        cluster.add_scheduler(),
        cluster.add_worker(),
        cluster.add_worker(),
    )
    load = asyncio.create_task(client.load(JOBS, clients=clients))
    await _dead(cluster.api)
    cluster.api.start()
    await load
    assert any(call.status is None for call in client.calls), "nobody was cut off"
    assert len(await check(ledger, client, cluster.journal)) == JOBS


async def _scheduler_dies(cluster: Cluster, client: Client, ledger: Ledger, point: str, measured: Measured) -> None:
    """The jobs are due a little later, so that it is the relay that publishes them."""
    failpoint = cluster.failpoint(point)
    await asyncio.gather(
        cluster.add_api(cluster.port), cluster.add_scheduler(failpoint.env), cluster.add_worker(), cluster.add_worker()
    )
    await asyncio.gather(*(client.accept(delay=0.5) for _ in range(JOBS)))
    await _dead(cluster.scheduler)
    cluster.scheduler.start()
    back = time.monotonic()
    jobs = await check(ledger, client, cluster.journal)
    measured("from the relay's return to the last job", time.monotonic() - back, 30)
    assert {job["attempt"] for job in jobs.values()} == {1}, "a doubled message ran a job twice"


async def _worker_dies(cluster: Cluster, client: Client, ledger: Ledger, point: str, *, crashes: bool = False) -> None:
    failpoint = cluster.failpoint(point)
    await asyncio.gather(cluster.add_api(cluster.port), cluster.add_scheduler(), cluster.add_worker(env=failpoint.env))
    load = asyncio.create_task(client.load(JOBS, clients=8))
    await _dead(cluster.workers[0])
    cluster.workers[0].start()
    await load
    jobs = await check(ledger, client, cluster.journal)
    assert not crashes or any(job["crashes"] for job in jobs.values()), "what it held was not counted as crashed"


async def _dead(service: Service) -> None:
    assert await service.wait_exit(30) == KILLED, service.log()


async def _succeeded(ledger: Ledger, count: int) -> bool:
    return await ledger.count("succeeded") == count
