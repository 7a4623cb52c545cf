"""A handler that ends its process, beside others: they succeed, and it is failed as the culprit."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.clients.client import Client
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.processes import Service, logged
from tests.support.service.running_service import serving, types_known

SIBLINGS = 8
SLOTS = SIBLINGS // 2 + 2  # of each of two workers; one of all is left to other tenants
PATIENCE = 120.0  # seconds: processes start on two noisy cores
HANDLERS = "accepted_worker.handlers,tests.support.handlers.suspicious"


class TwoWorkers(NamedTuple):
    client: Client
    services: list[Service]


@pytest.fixture(scope="module")
async def workers(database_server: DatabaseServer, database_template: str) -> AsyncIterator[TwoWorkers]:
    url = database_server.create_database(f"crashes_{os.getpid()}", template=database_template)
    env = {"ACCEPTED_AUTH": "off", "ACCEPTED_HANDLERS": HANDLERS, "ACCEPTED_LEASE_TTL": "8"}
    async with serving(url, env, slots=SLOTS) as running:
        second = Service("worker", "--concurrency", str(SLOTS), env=running.env).start()
        try:
            await types_known(running.client())
            await second.wait_ready(logged("worker_ready"), PATIENCE)
            yield TwoWorkers(running.client(), [running.services["worker"], second])
        finally:
            second.remove()
    database_server.drop_database(f"crashes_{os.getpid()}")


async def supervise(workers: list[Service], deaths: list[Service]) -> None:
    """Start each worker again that dies."""
    while True:
        for worker in workers:
            if not worker.running:
                deaths.append(worker)
                worker.start()
        await asyncio.sleep(0.2)


@pytest.mark.timeout(300)  # many processes start, on two noisy cores
@pytest.mark.fault("F87", moment="jobs run beside it")
@pytest.mark.parametrize("deed", ["kill", pytest.param("exit", marks=pytest.mark.slow)])
async def test_only_the_culprit_of_a_crash_is_condemned(workers: TwoWorkers, tmp_path: Path, deed: str) -> None:
    """`kill` is what the kernel's OOM killer does."""
    client, over, deaths = workers.client, tmp_path / "over", list[Service]()
    types = ["suspicious", "suspicious.thread"] * (SIBLINGS // 2)
    siblings = [await client.submit(type_, {"file": str(over)}) for type_ in types]
    for each in siblings:
        await client.until_status(each["id"], "running")
    supervising = asyncio.create_task(supervise(workers.services, deaths))
    culprit = await client.submit("suspicious", {"do": deed})
    failed = await client.finished(culprit["id"], PATIENCE)
    over.touch()
    ended = [await client.finished(each["id"], PATIENCE) for each in siblings]
    supervising.cancel()

    assert (failed["status"], failed["error"]["class"], failed["attempt"]) == ("failed", "crashed", 3)
    assert [job["status"] for job in ended] == ["succeeded"] * SIBLINGS
    assert max(job["attempt"] for job in ended) == 3
    assert len(deaths) == 2, "the third crash took no worker along"
