"""Batches through real processes, on either broker: all of them run, counted and told of once, whoever is killed."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import standardwebhooks
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.storage import job_types
from accepted.storage.db.engine import transaction
from tests.support.clients.client import PATIENCE, Client
from tests.support.clients.uploads import peak_of, upload
from tests.support.ledger.sql import rows, waits_for_a_lock
from tests.support.servers.ports import free_port
from tests.support.servers.receiver import Receiver
from tests.support.service.in_process_worker import HANDLERS
from tests.support.service.processes import Service, answers
from tests.support.service.running_service import BOOT_WITHIN, Running, serving, types_known
from tests.support.waiting import until

JOBS = 10_000
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(scope="module")
async def service(broker_url: str, own_database: str) -> AsyncIterator[Running]:
    """The three processes; what a dead worker held is given to others after 2 s."""
    env = {"ACCEPTED_AUTH": "off", "ACCEPTED_BROKER_URL": broker_url, "ACCEPTED_LEASE_TTL": "2"}
    env["ACCEPTED_WEBHOOK_SECRET"] = SECRET
    async with serving(own_database, env) as running:
        await types_known(running.client())
        yield running


async def finished(client: Client, batch: str) -> Any:
    async def there() -> Any:
        found = (await client.get(f"/batches/{batch}")).json()
        return found if found["finished"] else None

    return await until(there, PATIENCE * 2, "the end of the batch", interval=0.25)


@pytest.mark.timeout(300)
async def test_ten_thousand_run_and_are_told_of_once_though_workers_die(service: Running) -> None:
    client = service.client()
    queue = f"many-{uuid4()}"
    jobs = [{"type": "noop", "queue": queue, "payload": {"n": number}} for number in range(JOBS)]
    async with Receiver() as receiver:
        answer = await client.http.post("/batches", json={"jobs": jobs, "callback_url": f"{receiver.url}/batch"})
        assert (answer.status_code, answer.json()["total"]) == (202, JOBS)
        batch = answer.json()["id"]

        async def some() -> bool:
            return (await _counts(client, batch))["succeeded"] >= JOBS / 5

        await until(some, PATIENCE, "a fifth to be done", interval=0.1)
        service.services["worker"].kill()
        service.services["worker"].start()
        done = await finished(client, batch)
        assert done["counts"] == {"succeeded": JOBS}
        (told,) = await receiver.wait_for(1, 30)
        event = standardwebhooks.Webhook(SECRET).verify(told.body, dict(told.headers))
        assert event == {"type": "batch.finished", "timestamp": done["finished_at"], "data": done}
        await client.finish("noop", queue=queue)  # and nothing more is told
        assert len(receiver.requests) == 1
    listed = (await client.get(f"/jobs?batch_id={batch}&limit=200")).json()["items"]
    assert {job["status"] for job in listed} == {"succeeded"}


async def _counts(client: Client, batch: str) -> Counter[str]:
    return Counter((await client.get(f"/batches/{batch}")).json()["counts"])


async def test_lines_are_smeared_evenly_and_cancelled(service: Running) -> None:
    client = service.client()
    lines = b"\n".join(b'{"type":"sleep","payload":{"seconds":300}}' for _ in range(10))
    answer = await client.http.post(
        "/batches?spread_over=5", content=lines, headers={"content-type": "application/x-ndjson"}
    )
    batch = answer.json()["id"]

    async def running() -> bool:
        return (await _counts(client, batch))["running"] >= 3

    await until(running, PATIENCE, "some to run", interval=0.1)
    times = sorted(job["run_at"] for job in (await client.get(f"/jobs?batch_id={batch}")).json()["items"])
    assert len(set(times)) == 10
    assert (await client.http.post(f"/batches/{batch}/cancel")).status_code == 202
    assert (await finished(client, batch))["counts"] == {"cancelled": 10}


@pytest.fixture
async def alone(engine: AsyncEngine, database_url: str) -> AsyncIterator[tuple[str, Service]]:
    """An API process that knows the built-in types, with no worker and no scheduler beside it; its URL."""
    async with transaction(engine) as conn:
        await job_types.register(conn, [handler.type for handler in HANDLERS.values()])
        await conn.commit()
    port = free_port()
    env = {"ACCEPTED_AUTH": "off", "ACCEPTED_DATABASE_URL": database_url}
    api = Service("api", "--port", str(port), env=env).start()
    try:
        await api.wait_ready(answers(f"http://127.0.0.1:{port}/readyz"), BOOT_WITHIN)
        yield f"http://127.0.0.1:{port}", api
    finally:
        api.remove()


async def test_twenty_thousand_lines_take_no_memory_and_hold_up_nobody(alone: tuple[str, Service]) -> None:
    url, api = alone
    client = Client(url)
    assert (await upload(url, 500))[0].status_code == 202
    slowest = 0.0
    async with peak_of(api.pid) as peak:
        sending = asyncio.create_task(upload(url, 20_000))
        while not sending.done():
            for answer in (await client.get("/healthz"), await client.post({"type": "noop"})):
                assert answer.status_code in (200, 202)
                slowest = max(slowest, answer.elapsed.total_seconds())
        answer, _ = await sending
    assert (answer.status_code, answer.json()["counts"]) == (202, {"queued": 20_000})
    assert peak.grown < 20 * 2**20
    assert slowest < 1


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_million_lines(alone: tuple[str, Service]) -> None:
    url, api = alone
    async with peak_of(api.pid) as peak:
        answer, _ = await upload(url, 1_000_000)
    assert (answer.status_code, answer.json()["total"]) == (202, 1_000_000)
    assert peak.grown < 200 * 2**20
    counted = await Client(url).get(answer.headers["location"])
    assert counted.json()["counts"] == {"queued": 1_000_000}
    assert (await upload(url, 1_000_001))[0].status_code == 413


@pytest.mark.timeout(120)
async def test_an_api_that_is_killed_while_it_inserts_leaves_nothing(
    alone: tuple[str, Service], engine: AsyncEngine
) -> None:
    """All members are written and the key is about to be: somebody holds that key, so we know that it waits there."""
    url, api = alone
    async with transaction(engine) as conn:
        await conn.execute(text("INSERT INTO idempotency_keys VALUES ('default', 'k', '', gen_random_uuid(), now())"))
        sending = asyncio.create_task(upload(url, 3000, idempotency_key="k"))
        await until(lambda: waits_for_a_lock(engine), PATIENCE, "the record of the key to wait for us")
        api.kill()
        await conn.rollback()
    with pytest.raises(httpx.TransportError):
        await sending
    for table in ("jobs", "outbox", "batches", "idempotency_keys"):
        assert await rows(engine, f"SELECT 1 FROM {table}") == []
    await api.start().wait_ready(answers(f"{url}/readyz"), BOOT_WITHIN)
    answer, _ = await upload(url, 3000, idempotency_key="k")
    assert (answer.status_code, "idempotent-replayed" in answer.headers) == (202, False)
    again, _ = await upload(url, 3000, idempotency_key="k")
    assert (again.headers["location"], again.headers["idempotent-replayed"]) == (answer.headers["location"], "true")
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 3000
