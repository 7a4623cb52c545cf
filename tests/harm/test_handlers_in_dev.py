"""Handlers in `accepted dev` that block their event loop or end their process: the API goes on."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.faults.table import Measured
from tests.support.clients.client import Client
from tests.support.servers.children import descendants
from tests.support.service.processes import logged
from tests.support.service.running_service import Running, serving, types_known
from tests.support.waiting import until

BLOCKED = 5.0
"""Seconds."""

ANSWERS = 0.1
"""Seconds for /healthz at the median, beyond those that it takes while nothing runs: the machine may be busy."""

BACK = 5.0
"""Seconds until another worker is there; on a busy machine as many as `accepted dev` takes to start."""

ENV = {
    "ACCEPTED_HANDLERS": "accepted_worker.handlers,tests.support.handlers.misbehaving",
    "ACCEPTED_LEASE_TTL": "20",
    "ACCEPTED_SHUTDOWN_GRACE": "3",
}


class Dev(NamedTuple):
    """`accepted dev`, and how many seconds it took to be there."""

    running: Running
    started_in: float


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[Dev]:
    begun = time.monotonic()
    async with serving("", ENV, dev=True, more=["--data-dir", str(tmp_path / "data")]) as running:
        await types_known(running.client())
        yield Dev(running, time.monotonic() - begun)
        assert await running.services["dev"].terminate(60) == 0
        assert "Traceback" not in running.services["dev"].log(1000)


@pytest.mark.fault("F96", moment="its event loop is blocked for 5 s, its process ends")
async def test_the_api_of_dev_outlives_its_handlers(dev: Dev, measured: Measured) -> None:
    client, service = dev.running.client(), dev.running.services["dev"]
    idle = await usual_seconds(client)
    job = await client.submit("harms", {"how": "block", "seconds": BLOCKED})
    await client.until_status(job["id"], "running")
    beside = await usual_seconds(client)
    assert (await client.job(job["id"]))["status"] == "running", "it has blocked all the time"
    measured("/healthz beside a handler that blocks", beside, idle + ANSWERS)
    await client.finished(job["id"])

    (worker,) = workers_of(service.pid)
    await client.submit("harms", {"how": "exit", "attempts": 99})
    await until(lambda: not worker.is_running(), 10, "the worker to end")
    begun = time.monotonic()
    assert (await client.get("/healthz")).status_code == 200
    assert (await client.finish("noop"))["status"] == "succeeded"
    measured("the next worker", time.monotonic() - begun, max(BACK, dev.started_in))
    assert "worker_restarts" in service.log(1000)


@pytest.mark.fault("F96", moment="dev is killed (-9)")
async def test_the_worker_of_dev_ends_with_it(tmp_path: Path) -> None:
    async with serving("", ENV, dev=True, more=["--data-dir", str(tmp_path / "data")]) as running:
        service = running.services["dev"]
        await service.wait_ready(logged("worker_ready"))
        (worker,) = workers_of(service.pid)
        psutil.Process(service.pid).kill()
        await until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 5, "its worker to end")


async def usual_seconds(client: Client) -> float:
    """The median of eleven requests for /healthz."""
    took = []
    for _ in range(11):
        begun = time.monotonic()
        assert (await client.get("/healthz")).status_code == 200
        took.append(time.monotonic() - begun)
    return sorted(took)[5]


def workers_of(pid: int) -> list[psutil.Process]:
    return [child for child in descendants(pid) if "serve_as_worker" in " ".join(child.cmdline())]
