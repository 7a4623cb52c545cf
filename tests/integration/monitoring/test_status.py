"""GET /status: each thing that is wrong, who is told of it, and that it answers within a second whatever is away."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.concurrency import late_tasks_ended
from accepted.domain.monitoring.statistics import ALL
from accepted.loops import TurningLoop
from accepted.storage.db.engine import transaction
from accepted.storage.monitoring import processes, statistics
from accepted.storage.monitoring.processes import Process
from accepted_worker.scheduler.housekeeping import Sampler
from tests.support.clients.client import Client, check_problem
from tests.support.ledger import schedules
from tests.support.ledger.jobs import claim, put
from tests.support.ledger.sql import do
from tests.support.servers.proxy import Proxy
from tests.support.service.http_app import HttpApp, a_worker, http_app
from tests.support.waiting import until

SECOND = 3.9
"""Seconds: one, and some for a busy machine. Less than one command may take, which is 4."""


async def wrong(client: Client) -> list[dict[str, Any]]:
    """What is wrong, once the ledger is quick: on a busy machine it may count as slow."""
    found: list[list[dict[str, Any]]] = []

    async def quick() -> bool:
        found.append(await _wrong(client))
        return all(problem["kind"] != "ledger" for problem in found[-1])

    await until(quick, 30, lambda: f"a ledger that is quick: {found[-1]}")
    return found[-1]


async def _wrong(client: Client) -> list[dict[str, Any]]:
    answer = await client.get("/status")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["ok"] == (not body["problems"])
    found: list[dict[str, Any]] = body["problems"]
    for problem in found:
        assert problem["sentence"].endswith(".")
        assert problem["what_to_do"].endswith(".")
        assert datetime.fromisoformat(problem["since"]) <= datetime.now(UTC)
    return found


async def only(client: Client, kind: str) -> dict[str, Any]:
    found = await wrong(client)
    assert [problem["kind"] for problem in found] == [kind], found
    return found[0]


@pytest.fixture
async def healthy(engine: AsyncEngine, client: Client) -> Client:
    """A scheduler counts, and a worker lives."""
    await Sampler(engine).run_once()
    await a_worker(engine, types=["noop", "sleep", "http.request"])
    assert await wrong(client) == []
    return client


async def add(engine: AsyncEngine, *series: tuple[str, str, str], **counts: float) -> None:
    async with transaction(engine) as conn:
        await statistics.add(conn, dict.fromkeys(series, counts))
        await conn.commit()


async def waiting(engine: AsyncEngine, jobs: int = 3, seconds: float = 30, **fields: Any) -> None:
    """Jobs that have been ready for so long."""
    await put(engine, jobs, **fields)
    ago = "now() - :s * interval '1 second'"
    await do(engine, f"UPDATE jobs SET run_at = {ago}", s=seconds)
    await do(engine, f"UPDATE outbox SET due_at = {ago}", s=seconds)


async def test_no_scheduler(engine: AsyncEngine, client: Client) -> None:
    problem = await only(client, "scheduler")
    assert "stand still" in problem["sentence"]
    await Sampler(engine).run_once()
    assert await wrong(client) == []
    await do(engine, "UPDATE queue_samples SET at = at - interval '1 minute'")
    await only(client, "scheduler")
    await Sampler(engine).run_once()


async def report(engine: AsyncEngine, pid: int, loop: TurningLoop) -> None:
    """A scheduler says how a loop of it has fared."""
    process = Process(id=UUID(int=pid), kind="scheduler", host="here", pid=pid, version="1")
    loops = msgspec.json.encode([loop.report]).decode()
    async with transaction(engine) as conn:
        await processes.beat(conn, process, age=600, queues=[], outcomes="{}", loops=loops)
        await conn.commit()


async def test_a_loop_that_fails_or_hangs_in_every_scheduler(engine: AsyncEngine, healthy: Client) -> None:
    fails, hangs = TurningLoop("pruner"), TurningLoop("pruner")
    for loop in (fails, hangs):
        loop.begin()
    fails.fail()
    await report(engine, 1, fails)
    assert await wrong(healthy) == []

    fails.report.failing_since = hangs.report.last_run_at = datetime.now(UTC) - timedelta(minutes=2)
    await report(engine, 1, fails)
    problem = await only(healthy, "loop")
    assert problem["loop"] == "pruner"
    assert problem["sentence"].endswith("each round of it fails.")
    await report(engine, 1, hangs)
    assert (await only(healthy, "loop"))["sentence"].endswith("a round of it does not end.")

    fails.begin()
    fails.succeed()
    await report(engine, 2, fails)
    assert await wrong(healthy) == []


async def test_a_job_that_is_due_and_taken_by_no_relay(engine: AsyncEngine, healthy: Client) -> None:
    await waiting(engine, delay=60.0)
    assert "due wait" in (await only(healthy, "scheduler"))["sentence"]


async def test_paused_queues_and_who_is_told(app: HttpApp, engine: AsyncEngine, healthy: Client) -> None:
    assert (await healthy.http.patch("/queues/q", json={"paused": True})).status_code == 200
    await waiting(engine)
    problem = await only(healthy, "paused")
    assert (problem["queue"], problem["link"]) == ("q", "/queues/q")
    assert problem["sentence"] == "Queue q is paused, and 3 jobs wait on it."
    assert await wrong(await app.client("another", "jobs:read")) == []
    await only(await app.client("t", "jobs:read"), "paused")
    check_problem(await (await app.client("t", "jobs:write")).get("/status"), 403)


async def test_no_worker_for_a_queue_and_for_a_type(engine: AsyncEngine, healthy: Client) -> None:
    await waiting(engine, type="unknown.type")
    await do(engine, "UPDATE outbox SET unserved = 'unknown.type'")
    problem = await only(healthy, "no_worker")
    assert (problem["queue"], problem["type"]) == ("q", "unknown.type")
    await do(engine, "UPDATE outbox SET unserved = ''")
    assert (await healthy.http.patch("/queues/q", json={"paused": False})).status_code == 200
    await do(engine, "UPDATE workers SET heartbeat_at = now() - interval '1 hour'")
    problem = await only(healthy, "no_worker")
    assert problem["sentence"] == "No live worker serves queue q, and 3 jobs wait on it."


@pytest.mark.parametrize(
    ("limits", "said"),
    [({"rate_limit": {"jobs": 1, "per": 3600}}, "1 jobs in 3600 s"), ({"max_running": 1}, "runs at most 1 job")],
)
async def test_a_limit_that_is_too_low(engine: AsyncEngine, healthy: Client, limits: dict[str, Any], said: str) -> None:
    await put(engine, 40)
    assert len(await claim(engine, 1)) == 1
    await do(engine, "UPDATE jobs SET run_at = now() - interval '30 seconds'")
    await do(engine, "UPDATE outbox SET due_at = now() - interval '30 seconds'")
    assert await wrong(healthy) == []
    await do(engine, "INSERT INTO queue_samples (queue, at, runs, seconds) VALUES ('q', now(), 10, 600)")
    assert (await healthy.http.patch("/queues/q", json=limits)).status_code == 200
    problem = await only(healthy, "limit")
    assert said in problem["sentence"]
    assert "39 jobs wait" in problem["sentence"]


async def test_workers_that_are_blocked_and_attempts_that_are_stuck(
    app: HttpApp, engine: AsyncEngine, healthy: Client
) -> None:
    await put(engine, 1, type="sleep")
    (running,) = await claim(engine, 1, await a_worker(engine))
    await do(engine, "UPDATE attempts SET started_at = now() - interval '5 minutes'")
    assert await wrong(healthy) == [], "nobody knows how long this type takes"
    await add(engine, ALL, ("t", "q", "sleep"), run_7=20)
    problem = await only(healthy, "stuck")
    assert (problem["job_id"], problem["type"]) == (str(running.job.id), "sleep")
    await add(engine, ALL, ("t", "q", "sleep"), run_15=5)
    assert await wrong(healthy) == [], "of its type one in five takes that long"
    blocked = f'{{"type": "sleep", "job_id": "{running.job.id}", "attempt": 1, "where": "x.py:3", "seconds": 8}}'
    await do(engine, "UPDATE workers SET blocked = :blocked WHERE id = :id", blocked=blocked, id=running.worker_id)
    problem = await only(await app.client("t", "jobs:read"), "blocked")
    assert "x.py:3" in problem["sentence"]
    assert await wrong(await app.client("another", "jobs:read")) == []


async def test_what_fails_and_crashes(engine: AsyncEngine, healthy: Client) -> None:
    await add(engine, ALL, ("t", "q", "noop"), dead_letters=4, failed_crashed=1)
    assert await wrong(healthy) == []
    await add(engine, ALL, ("t", "q", "noop"), dead_letters=1, failed_crashed=1)
    crashing, dying = await wrong(healthy)
    assert (crashing["kind"], dying["kind"]) == ("crashes", "dead_letters")
    assert "5 jobs of type noop" in dying["sentence"]
    assert (await healthy.get(crashing["link"])).status_code == 200


async def test_hosts_and_receivers(engine: AsyncEngine, healthy: Client) -> None:
    await put(engine, 1, type="http.request")
    await do(engine, "INSERT INTO targets VALUES ('t', 'example.com:443', 7, 'transient', now() + interval '1 minute')")
    assert await wrong(healthy) == [], "nothing waits for it"
    (running,) = await claim(engine, 1, await a_worker(engine))
    await do(engine, "UPDATE attempts SET finished_at = now(), outcome = 'deferred', target = 'example.com:443'")
    await do(engine, "UPDATE jobs SET status = 'retrying'")
    await do(
        engine,
        "INSERT INTO outbox (job_id, attempt, tenant, queue, priority, due_at, published) "
        "VALUES (:id, 1, 't', 'q', 4, now() + interval '1 minute', false)",
        id=running.job.id,
    )
    problem = await only(healthy, "host")
    assert "its last 7 calls have failed. 1 job waits for it." in problem["sentence"]
    await do(engine, "DELETE FROM targets")
    await do(
        engine,
        "INSERT INTO webhook_urls VALUES ('t', 'https://hooks.example.com/?token=hidden', now() - interval '6 days')",
    )
    problem = await only(healthy, "webhook")
    assert problem["host"] == "hooks.example.com:443"
    assert "hidden" not in str(problem)


async def test_schedules_that_do_not_fire(engine: AsyncEngine, healthy: Client) -> None:
    await schedules.put(engine)
    assert await wrong(healthy) == []
    await do(
        engine,
        "INSERT INTO schedule_runs (tenant, name, scheduled_at, outcome, reason) "
        "VALUES ('acme', 's', now() - interval '1 minute', 'failed', 'no such type')",
    )
    assert "could not fire at its last time: no such type" in (await only(healthy, "schedule"))["sentence"]
    await do(engine, "UPDATE schedule_runs SET outcome = 'skipped', reason = 'missed'")
    assert "no scheduler ran" in (await only(healthy, "schedule"))["sentence"]
    await do(engine, "DELETE FROM schedule_runs")
    await do(engine, "UPDATE schedules SET next_at = now() - interval '1 minute'")
    assert "is late" in (await only(healthy, "schedule"))["sentence"]


async def test_a_broker_that_is_away(engine: AsyncEngine, healthy: Client, database_url: str) -> None:
    async with http_app(engine, database_url, broker_url="amqp://guest:hidden@127.0.0.1:1/") as app:
        problem = await only(await app.client(), "broker")
        assert "hidden" not in str(problem)
        await app.state.broker.close()


async def test_a_ledger_that_is_slow_or_away(engine: AsyncEngine, healthy: Client, database_url: str) -> None:
    """Also for a caller whose key nobody can look up: who that is tells only what concerns everybody."""
    async with Proxy(database_url) as proxy, http_app(engine, proxy.url_for(database_url)) as app:
        client, stranger = await app.client(), await app.client("another")
        assert await wrong(client) == []
        proxy.delay(0.3)
        first, *_ = await timed(client)
        assert first["kind"] == "ledger"
        assert first["checks"]
        proxy.blackhole()
        (away,) = await timed(client)
        assert (away["kind"], away["checks"][0]) == ("ledger", "schedulers")
        assert "did not answer" in away["sentence"]
        assert [problem["kind"] for problem in await timed(stranger)] == ["ledger"]
        proxy.cut()
        await late_tasks_ended()


async def timed(client: Client) -> list[dict[str, Any]]:
    began = time.monotonic()
    found = await _wrong(client)
    assert time.monotonic() - began < SECOND
    return found
