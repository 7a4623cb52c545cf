"""The metrics port of each process: every documented series, counts of queues at one scheduler alone, and health."""

import json
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

import accepted as product
from tests.support.clients.client import PATIENCE, Client
from tests.support.servers.ports import free_port
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.processes import ROOT, Service, answers
from tests.support.service.running_service import accepted, types_known
from tests.support.waiting import until

COUNTED = ("accepted_queue_jobs{", "accepted_queue_oldest_seconds{", "accepted_dead_letters{")


@dataclass(frozen=True)
class Fleet:
    """An API, a worker and two schedulers, each with a port for metrics."""

    client: Client
    services: dict[str, Service]
    ports: dict[str, int]

    async def shown(self, name: str) -> str:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            return (await client.get(f"http://127.0.0.1:{self.ports[name]}/metrics")).text

    async def counting(self) -> list[str]:
        """The processes that show counts of queues."""
        running = [name for name, service in self.services.items() if service.running]
        texts = {name: await self.shown(name) for name in running}
        return [name for name, text in texts.items() if all(series in text for series in COUNTED)]


@pytest.fixture
async def fleet(database_url: str) -> AsyncIterator[Fleet]:
    public, ports = free_port(), {name: free_port() for name in ("api", "worker", "one", "two")}
    env = {"ACCEPTED_DATABASE_URL": database_url, "ACCEPTED_AUTH": "off"}
    more = {"api": ["--port", str(public)], "worker": ["--concurrency", "2"]}
    services = {
        name: Service("scheduler" if name in ("one", "two") else name, *more.get(name, []),
                      "--metrics-port", str(port), env=env)
        for name, port in ports.items()
    }  # fmt: skip
    try:
        for service in services.values():
            service.start()
        for name, port in ports.items():
            await services[name].wait_ready(answers(f"http://127.0.0.1:{port}/healthz"), PATIENCE)
        client = Client(f"http://127.0.0.1:{public}")
        await services["api"].wait_ready(answers(f"http://127.0.0.1:{public}/readyz"), PATIENCE)
        await types_known(client)
        yield Fleet(client, services, ports)
    finally:
        for service in services.values():
            service.remove()


def documented() -> set[str]:
    """The first column of the table of metrics in docs/operations.md."""
    page = (ROOT / "docs/operations.md").read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`accepted_.*?) \|", page, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(accepted_\w+)`", row)}


async def test_each_process_shows_what_it_counts(fleet: Fleet) -> None:
    client = fleet.client
    fails = {"payload": {"seconds": 0, "fail_attempts": 1}, "retry": {"max_attempts": 1}, "queue": "q"}
    await client.finish("sleep", **fails)
    await client.submit("noop", queue="q", delay=9999)
    long = await client.submit("sleep", {"seconds": 600}, queue="q")
    await client.until_status(long["id"], "running")

    async def all_counted() -> str:
        for name in await fleet.counting():
            text = await fleet.shown(name)
            if 'accepted_queue_jobs{queue="q",status="scheduled"} 1.0' in text:
                return text
        return ""

    counted = await until(all_counted, PATIENCE, "a scheduler that counts", interval=0.2)
    assert 'accepted_queue_jobs{queue="q",status="running"} 1.0' in counted
    assert 'accepted_dead_letters{queue="q"} 1.0' in counted
    assert 'accepted_queue_oldest_seconds{queue="q"} 0.0' in counted
    assert 'accepted_loop_last_success_timestamp_seconds{loop="relay"}' in counted
    worker = await fleet.shown("worker")
    assert 'accepted_worker_slots{state="busy"} 1.0' in worker
    assert 'accepted_worker_slots{state="free"} 1.0' in worker
    waited = re.search(r"accepted_job_wait_seconds_sum ([0-9.e-]+)\n", worker)
    assert "accepted_job_wait_seconds_count 2.0" in worker
    assert waited is not None
    assert 0 < float(waited[1]) < PATIENCE
    texts = [await fleet.shown(name) for name in fleet.ports]
    assert all(f'accepted_build_info{{version="{product.__version__}"}} 1.0' in text for text in texts)
    shown = {name for text in texts for name in re.findall(r"^# TYPE (accepted_\w+) ", text, re.MULTILINE)}
    assert {name for name in shown if not name.endswith("_created")} == documented()  # the client adds these


async def test_queues_are_counted_by_one_scheduler_until_it_is_gone(fleet: Fleet) -> None:
    await fleet.client.submit("noop", queue="q", delay=9999)
    (first,) = await until(fleet.counting, PATIENCE, "a scheduler that counts", interval=0.2)
    before = await fleet.shown(first)
    again: list[str] = []

    async def several_rounds() -> bool:
        again.extend(await fleet.counting())
        return _rounds(await fleet.shown(first)) >= _rounds(before) + 3

    await until(several_rounds, PATIENCE, "three more rounds", interval=0.5)
    assert {*again} == {first}
    fleet.services[first].kill()
    (second,) = await until(fleet.counting, PATIENCE, "the other scheduler", interval=0.2)
    assert second != first


def _rounds(text: str) -> float:
    """How many queues the loop has counted, which is one or more in each round."""
    found = re.search(r'accepted_loop_rows_total{loop="figures"} ([0-9.]+)', text)
    return float(found[1]) if found else 0.0


async def test_healthcheck_of_every_kind(fleet: Fleet, database_server: DatabaseServer) -> None:
    async def checked(name: str) -> Any:
        return await accepted("healthcheck", env={"ACCEPTED_METRICS_PORT": str(fleet.ports[name])})

    for name in ("api", "worker", "one"):
        done = await checked(name)
        assert (done.code, done.out) == (0, "healthy\n"), done
    public = fleet.client.http.base_url.port
    assert (await accepted("healthcheck", "--port", str(public), env={})).code == 0
    by_url = {"ACCEPTED_URL": f"http://127.0.0.1:{public}"}
    done = await accepted("healthcheck", "--json", env=by_url)
    assert (done.code, json.loads(done.out)) == (0, {"healthy": True, "problem": None}), done
    done = await accepted("healthcheck", "--json", "--url", "http://127.0.0.1:1", env=by_url)
    assert (done.code, json.loads(done.out)["healthy"]) == (1, False), done
    fleet.services["worker"].signal(signal.SIGSTOP)
    done = await checked("worker")
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"accepted: http://127\.0\.0\.1:\d+/healthz does not answer: .+\n", done.err)
