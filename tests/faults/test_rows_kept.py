"""Rows that others need, rows that are large, values at their ends: what a service that runs for long meets."""

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import pytest

from accepted.storage.db.engine import create_engine
from accepted_worker.scheduler.pruner import Pruner
from tests.faults import effects
from tests.faults.checker import Ledger
from tests.faults.cluster import Cluster
from tests.support.clients.ends import Ends, Sent
from tests.support.clients.uploads import peak_of
from tests.support.servers.receiver import Answer, Receiver, Request
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

WITHIN = 60.0  # seconds for all workflows, on a busy machine
WORKFLOWS = 20
MIB = 2**20
MOST_MEMORY = 100 * MIB  # for six pages; measured: 12


@pytest.mark.fault("F71", moment="retention is over at once")
async def test_what_is_needed_is_not_pruned(cluster: Cluster, ledger: Ledger, database_url: str) -> None:
    """A pruner without any retention runs all the time: each workflow is counted whole, and each job can be read when
    its webhook comes. In the end nothing is left."""
    await cluster.start(workers=1)
    counts: list[Any] = []
    read: Counter[int] = Counter()
    told: Counter[str] = Counter()

    async def answer(request: Request) -> Answer:
        event = json.loads(request.body)
        told[event["type"]] += 1
        if event["type"] == "batch.finished":
            counts.append(event["data"]["counts"])
        path = "batches" if event["type"] == "batch.finished" else "jobs"
        read[(await client.get(f"/{path}/{event['data']['id']}")).status_code] += 1
        return Answer()

    engine = create_engine(database_url)
    pruner = Pruner(engine, 0.0, 0.0)

    async def prune() -> None:
        while True:
            await pruner.run_once()
            await asyncio.sleep(0.02)

    pruning = asyncio.create_task(prune())
    async with Receiver(answer) as receiver, httpx.AsyncClient(base_url=cluster.url, trust_env=False) as client:
        first = {"type": effects.TYPE, "ref": "a", "callback_url": receiver.url}
        slow = {"type": effects.TYPE, "ref": "b", "depends_on": ["a"], "payload": {"seconds": 1}}
        last = {"type": effects.TYPE, "ref": "c", "depends_on": ["a", "b"]}
        for _ in range(WORKFLOWS):
            body = {"jobs": [first, slow, last], "callback_url": receiver.url}
            assert (await client.post("/workflows", json=body)).status_code == 202
        await until(lambda: told["batch.finished"] >= WORKFLOWS, WITHIN, lambda: str(told))
        await until(lambda: _nothing_left(ledger), WITHIN, "the pruner to delete everything")
        assert not pruning.done(), "the pruner failed"
        pruning.cancel()
    await engine.dispose()
    assert counts == [{"succeeded": 3}] * len(counts)
    assert set(read) == {200}, read
    assert told["job.succeeded"] >= WORKFLOWS


@pytest.mark.fault("F72", moment="six pages at once")
async def test_large_pages_take_little_memory(cluster: Cluster) -> None:
    await cluster.add_api(cluster.port)
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=60) as client:
        body = {"type": "noop", "delay": 3600, "payload": {"text": "x" * 250_000}}
        await cluster.add_worker()
        for _ in range(200):
            assert (await client.post("/jobs", json=body)).status_code == 202
        async with peak_of(cluster.api.pid) as peak:
            pages = [client.get("/jobs?limit=200&include=payload,result") for _ in range(6)]
            answers = await asyncio.gather(*pages)
        assert {answer.status_code for answer in answers} == {200}
        assert all(answer.json()["next"] for answer in answers)
        assert max(len(answer.content) for answer in answers) < 3 * MIB
        assert peak.grown < MOST_MEMORY, f"{peak.grown / MIB:.0f} MiB"
        seen = await _walk(client, "/jobs?limit=200&include=payload")
        assert len(seen) == len(set(seen)) == 200


@pytest.mark.fault("F73", moment="every parameter of every operation")
async def test_no_end_of_time_numbers_or_text_is_a_500(cluster: Cluster) -> None:
    await cluster.start(workers=1)
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=30) as client:
        job = (await client.post("/jobs", json={"type": "noop"})).json()
        batch = (await client.post("/batches", json={"jobs": [{"type": "noop"}]})).json()
        await client.patch("/queues/q", json={"max_depth": 1_000_000})
        document = (await client.get("/openapi.json")).json()
        statuses: Counter[int] = Counter()
        failed: list[str] = []
        requests = Ends(document, {"job_id": job["id"], "batch_id": batch["id"], "name": "q"}).requests()

        async def send() -> None:
            for sent in requests:
                status = await _status(client, sent)
                statuses[status] += 1
                if status >= 500:
                    failed.append(f"{sent.method} {sent.path[:80]} {sent.what}: {status}")

        await asyncio.gather(*(send() for _ in range(8)))
        assert failed == [], "\n".join([f"{len(failed)} of {statuses.total()}", *failed[:40]])
        assert statuses[422] > 1000, statuses


async def _nothing_left(ledger: Ledger) -> bool:
    return await ledger.value("SELECT count(*) FROM jobs") == await ledger.value("SELECT count(*) FROM batches") == 0


async def _walk(client: httpx.AsyncClient, path: str) -> list[str]:
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await client.get(path + cursor)).json()
        seen += [job["id"] for job in page["items"]]
        if page["next"] is None:
            return seen
        cursor = f"&cursor={page['next']}"


async def _status(client: httpx.AsyncClient, sent: Sent) -> int:
    """Of the answer; a stream of events is not read to its end."""
    try:
        async with client.stream(**sent.request(str(client.base_url))) as answer:
            return answer.status_code
    except (httpx.InvalidURL, httpx.LocalProtocolError):  # this client cannot send it
        return 0
