"""docs/workers/worker.mjs as a real process: a worker in another language, on either broker."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.clients.client import PATIENCE, Client
from tests.support.servers.children import kill_tree, spawn, tail
from tests.support.servers.node import node
from tests.support.servers.postgres import connect
from tests.support.service.processes import ROOT
from tests.support.service.running_service import Running, serving, types_known
from tests.support.waiting import until

WORKER = ROOT / "docs" / "workers" / "worker.mjs"
LEASE_TTL = 2


class Node:
    """One worker.mjs."""

    def __init__(self, program: str, url: str) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="accepted-node-"))
        env = {"PATH": os.environ["PATH"], "ACCEPTED_URL": url}
        self.process = spawn([program, WORKER], env=env, log=self._home / "log", cwd=self._home)

    def said(self, event: str) -> list[dict]:
        lines = [json.loads(line) for line in tail(self._home / "log", 1000).splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    async def ready(self) -> "Node":
        await until(lambda: self.said("ready"), PATIENCE, lambda: tail(self._home / "log"))
        return self

    async def stopped(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await until(lambda: self.process.poll() is not None, 30, "node to stop") and self.process.returncode

    def remove(self) -> None:
        kill_tree(self.process)
        shutil.rmtree(self._home, ignore_errors=True)


@pytest.fixture(scope="module")
async def trio(broker_url: str, own_database: str) -> AsyncIterator[Running]:
    env = {"ACCEPTED_AUTH": "off", "ACCEPTED_BROKER_URL": broker_url, "ACCEPTED_LEASE_TTL": str(LEASE_TTL)}
    async with serving(own_database, env) as running:
        await types_known(running.client())
        yield running


@pytest.fixture
def nodes(trio: Running) -> Iterator[list[Node]]:
    started = [Node(node(), trio.url) for _ in range(2)]
    yield started
    for one in started:
        one.remove()


async def test_it_runs_jobs_reports_and_stops_cleanly(trio: Running, nodes: list[Node]) -> None:
    client = trio.client()
    for one in nodes:
        await one.ready()
    jobs = [await client.submit("node.echo", {"say": n}) for n in range(10)]
    for n, job in enumerate(jobs):
        done = await client.finished(job["id"])
        assert (done["status"], done["result"]["said"], done["attempt"]) == ("succeeded", n, 1)
        assert done["progress"] == {"percent": 0, "message": "waiting"}
    failed = await client.finish("node.echo", {"fail": "auth"})
    assert (failed["status"], failed["error"]["class"], failed["attempt"]) == ("failed", "auth", 1)
    retried = await client.finish("node.echo", {"fail": "transient"}, retry={"max_attempts": 2, "schedule": [0.1]})
    assert (retried["status"], retried["error"]["class"], retried["attempt"]) == ("failed", "transient", 2)
    noop = await client.finish("noop")
    assert noop["status"] == "succeeded", "the Python worker beside it has its own"
    cancelled = await client.submit("node.echo", {"seconds": 60})
    await client.until_status(cancelled["id"], "running")
    await client.http.post(f"/jobs/{cancelled['id']}/cancel")
    await client.until_status(cancelled["id"], "cancelled", timeout=LEASE_TTL + 10)
    held = await client.submit("node.echo", {"seconds": 1.5 * LEASE_TTL})
    await client.until_status(held["id"], "running")
    assert [await one.stopped() for one in nodes] == [0, 0]
    done = await client.finished(held["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 1), "what it held was finished, kept alive by heartbeats"


async def test_kill_9_mid_job_and_the_late_outcome(trio: Running, nodes: list[Node]) -> None:
    """Another finishes the job. The first is then a zombie, stopped and continued: its late outcome is refused."""
    client = trio.client()
    for one in nodes:
        await one.ready()
    killed = await client.submit("node.echo", {"seconds": 2 * LEASE_TTL})
    victim = await _holder(client, nodes, killed["id"])
    victim.process.kill()
    done = await client.finished(killed["id"])
    assert (done["status"], done["attempt"]) == ("succeeded", 2)
    assert [attempt["outcome"] for attempt in await client.attempts(killed["id"])] == ["crashed", "succeeded"]

    nodes[nodes.index(victim)] = await Node(node(), trio.url).ready()
    victim.remove()
    asleep = await client.submit("node.echo", {"seconds": LEASE_TTL})
    zombie = await _holder(client, nodes, asleep["id"])
    zombie.process.send_signal(signal.SIGSTOP)
    done = await client.finished(asleep["id"])
    zombie.process.send_signal(signal.SIGCONT)
    (late,) = await until(lambda: [a for a in zombie.said("attempt") if a["id"] == asleep["id"]], 30, "its outcome")
    assert (late["attempt"], late["answered"]) == (1, 409)
    assert await client.job(asleep["id"]) == done
    assert (done["attempt"], done["result"]["by"] != zombie.process.pid) == (2, True)


async def test_a_stopping_api_ends_the_polls(trio: Running) -> None:
    """The last test of each trio: its API is stopped."""
    client = trio.client()
    asking = asyncio.create_task(client.http.post("/queues/empty/lease", json={"wait": 60}))
    await until(lambda: _waits(trio), 20, "somebody to wait")
    began = time.monotonic()
    code = await trio.services["api"].terminate()
    answer = await asking
    assert (code, answer.status_code, answer.json()) == (0, 200, {"items": []})
    assert time.monotonic() - began < 10


async def _waits(trio: Running) -> bool:
    connection = await connect(trio.env["ACCEPTED_DATABASE_URL"])
    found = await connection.fetchval("SELECT count(*) FROM workers WHERE 'empty' = ANY(queues)")
    await connection.close()
    return bool(found)


async def _holder(client: Client, nodes: list[Node], job_id: str) -> Node:
    """Which of them runs the job."""
    await client.until_status(job_id, "running")

    def found() -> list[Node]:
        return [one for one in nodes if any(said["id"] == job_id for said in one.said("started"))]

    (holder,) = await until(found, 10, "somebody to say so")
    return holder
