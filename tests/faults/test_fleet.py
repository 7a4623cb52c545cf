"""Workers that are away, out of memory, blocked, or wrong about the time."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster, misled
from tests.faults.table import Measured
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

AWAY = 20.0  # seconds without any worker
LEASE = 2.0  # seconds
BLOCKED = 30.0  # seconds: more than three heartbeats of the broker (8 s), and many leases
MEMORY = 400 * 2**20  # bytes for a worker that needs some 150 MiB
CGROUPS = Path("/sys/fs/cgroup/memory")


@pytest.mark.fault("F12", moment="under load")
async def test_every_worker_killed_and_away_for_a_while(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    await cluster.start(workers=3, concurrency=4)
    await client.load(40, {"seconds": 0.1})
    for worker in cluster.workers:
        worker.kill()
    gone = time.monotonic()
    while time.monotonic() - gone < AWAY:
        await client.load(8)
    for worker in cluster.workers:
        worker.start()
    back = time.monotonic()
    await check(ledger, client, cluster.journal)
    measured("from the workers' return to the last job", time.monotonic() - back, 60)
    assert {call.status for call in client.calls} == {202}


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group whose processes the kernel kills when they take more than `MEMORY`."""
    group = CGROUPS / f"accepted-{uuid4().hex[:8]}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(MEMORY))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    for pid in (group / "cgroup.procs").read_text().split():
        (CGROUPS / "cgroup.procs").write_text(pid)
    group.rmdir()


@pytest.mark.fault("F15", moment="under load")
async def test_a_worker_that_the_kernel_kills_for_its_memory(
    cluster: Cluster, client: Client, ledger: Ledger, little_memory: Path
) -> None:
    cluster.env["ACCEPTED_LEASE_TTL"] = f"{LEASE:g}"
    await cluster.start(workers=1)
    worker = cluster.workers[0]
    (little_memory / "cgroup.procs").write_text(str(worker.pid))
    bomb = await client.accept({"eat_attempts": 1000}, retry={"max_attempts": 10})
    for _ in range(2):
        await until(lambda: not worker.running, 60, "the kernel has killed it")
        assert worker.exit_code == -9
        await cluster.restart_worker(worker)
        (little_memory / "cgroup.procs").write_text(str(worker.pid))
    await client.load(10)
    jobs = await check(ledger, client, cluster.journal, failed={bomb})
    assert (jobs[bomb]["error"], jobs[bomb]["attempt"]) == ("crashed", 3)
    assert worker.running, "the third time it is alone in a child"


@pytest.mark.fault("F17", moment="jobs run")
async def test_a_handler_that_blocks_its_worker(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    """Its broker connection is lost, its leases are not: others take what waits, and it does what it has begun."""
    cluster.env["ACCEPTED_LEASE_TTL"] = f"{LEASE:g}"
    cluster.env["ACCEPTED_BLOCKED_LIMIT"] = f"{2 * BLOCKED:g}"
    await cluster.start(workers=1, concurrency=4)
    beside = await asyncio.gather(*(client.accept({"seconds": 3}) for _ in range(3)))
    await until(lambda: _begun(cluster) == 3, 30, "the others have begun")
    blocking = await client.accept({"block_seconds": BLOCKED})
    await until(lambda: _begun(cluster) == 4, 30, "it has begun as well")
    await cluster.add_worker()
    begun = time.monotonic()
    loaded = await client.load(20)
    await until(lambda: _succeeded(ledger, *loaded), BLOCKED, "the other worker has done them")
    assert time.monotonic() - begun < BLOCKED, "they waited for the blocked worker"
    await until(lambda: _succeeded(ledger, blocking), 2 * BLOCKED, "the blocked worker has done it")
    await client.load(20)
    await check(ledger, client, cluster.journal)
    for job_id in (*beside, blocking):
        assert await ledger.outcomes(job_id) == ["succeeded"]


@pytest.mark.fault("F47", moment="under load")
async def test_workers_whose_clocks_are_wrong(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    """Leases and due times are the ledger's: five minutes either way change nothing."""
    await asyncio.gather(
        cluster.add_api(cluster.port, misled(CLOCK_OFFSET="-300")),
        cluster.add_scheduler(misled(CLOCK_OFFSET="300")),
        cluster.add_scheduler(misled(CLOCK_OFFSET="-300")),
        *(cluster.add_worker(env=misled(CLOCK_OFFSET=offset)) for offset in ("300", "-300", "0")),
    )
    ids = [await client.accept({"seconds": 8}) for _ in range(6)]
    await client.load(60, {"seconds": 0.1})
    later = await asyncio.gather(*(client.accept(delay=3) for _ in range(10)))
    jobs = await check(ledger, client, cluster.journal)
    assert {jobs[job_id]["attempt"] for job_id in ids} == {1}, "a lease ran out by the wrong clock"
    early = "SELECT count(*) FROM jobs WHERE id = ANY($1::uuid[]) AND started_at < run_at"
    assert await ledger.value(early, list(later)) == 0
    assert len({line.pid for line in effects.read(cluster.journal)}) == 3


def _begun(cluster: Cluster) -> int:
    return len(effects.of(effects.read(cluster.journal), "started"))


async def _succeeded(ledger: Ledger, *ids: str) -> bool:
    return bool(await ledger.value("SELECT bool_and(status = 'succeeded') FROM jobs WHERE id = ANY($1::uuid[])", ids))
