"""GET /queues, /queues/{name} and /queues/{name}/sizing: what waits, who works, and how many slots that takes."""

import time
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.storage import queue_load
from accepted.storage.db.engine import transaction
from accepted_worker.scheduler.relay import Relay
from tests.support.clients.client import Client, check_problem
from tests.support.ledger import limited_queue
from tests.support.ledger.jobs import apply, claim, put, running_attempt
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.service.http_app import HttpApp, a_worker, http_app, measured

NOTHING = {"scheduled": 0, "blocked": 0, "queued": 0, "running": 0, "retrying": 0}


async def shown(client: Client, path: str = "/queues/q") -> dict[str, Any]:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def some(engine: AsyncEngine, client: Client) -> None:
    """Jobs of tenant t in every state, and two of another tenant."""
    for fields in ({}, {}, {}, {}, {"delay": 600}):
        await client.submit("noop", queue="q", **fields)
    await put(engine, 2, tenant="another")
    await put(engine, 1, blockers=1)
    one, two = await claim(engine, 2, await a_worker(engine, slots=3))
    await apply(engine, transitions.failed(running_attempt(one), FailureClass.TRANSIENT, "no", 0.0))
    assert two.job.tenant == "t"


async def test_depth_by_status(engine: AsyncEngine, client: Client) -> None:
    await some(engine, client)
    await do(engine, "UPDATE jobs SET run_at = run_at - interval '90 seconds' WHERE status = 'queued' AND tenant = 't'")
    queue = await shown(client)
    assert queue["depth"] == {"scheduled": 1, "blocked": 1, "queued": 4, "running": 1, "retrying": 1}
    assert queue["depth_of"] == "all"
    assert 90 <= queue["oldest_waiting_age"] < 120
    assert queue["slots"] == 3
    (listed,) = (await shown(client, "/queues"))["items"]
    assert listed | {"oldest_waiting_age": 0} == queue | {"oldest_waiting_age": 0}


async def test_who_is_no_admin_sees_his_own(app: HttpApp, engine: AsyncEngine, client: Client) -> None:
    await some(engine, client)
    mine = await app.client("t", "jobs:read")
    queue = await shown(mine)
    assert (queue["depth"], queue["depth_of"]) == (
        {"scheduled": 1, "blocked": 1, "queued": 2, "running": 1, "retrying": 1},
        "tenant",
    )
    nobody = await app.client("third", "jobs:read")
    for path in ("/queues", "/queues/q"):
        found = await shown(nobody, path)
        queue = found["items"][0] if path == "/queues" else found
        assert (queue["depth"], queue["oldest_waiting_age"]) == (NOTHING, None)
    check_problem(await (await app.client("t", "jobs:write")).get("/queues"), 403)
    check_problem(await mine.http.patch("/queues/q", json={"paused": True}), 403)


async def test_what_is_set(client: Client) -> None:
    limits = {"paused": True, "max_running": 3, "rate_limit": {"jobs": 5, "per": 60.0}, "max_depth": 9}
    patched = (await client.http.patch("/queues/q", json=limits)).json()
    for queue in (patched, await shown(client), (await shown(client, "/queues"))["items"][0]):
        assert {name: queue[name] for name in limits} == limits
        assert queue["depth"] == NOTHING


async def test_slots_are_those_of_live_workers_that_serve_it(engine: AsyncEngine, client: Client) -> None:
    await client.submit("noop", queue="q")
    await a_worker(engine, slots=2)
    await a_worker(engine, slots=3, queues=["other", "q"])
    await a_worker(engine, slots=100, queues=["other"])
    silent = await a_worker(engine, slots=1000)
    await do(engine, "UPDATE workers SET heartbeat_at = now() - interval '1 minute' WHERE id = :id", id=silent)
    assert (await shown(client))["slots"] == 5


async def test_slots_count_only_for_who_serves_a_type_of_the_queue(engine: AsyncEngine, client: Client) -> None:
    """What a worker serves by its queues alone it could claim nothing of."""
    await limited_queue.put(engine, PostgresBroker(engine, ""), 1, type="image.thumbnail", queue="poison")
    await client.submit("noop", queue="q")
    for _ in range(10):
        await a_worker(engine, slots=10, types=["noop", "sleep"])
    for path in ("/queues/poison", "/queues/poison/sizing"):
        assert (await shown(client, path))["slots"] == 0, path
    assert (await shown(client))["slots"] == 100
    await a_worker(engine, slots=3, types=["image.thumbnail"], queues=["poison"])
    for path in ("/queues/poison", "/queues/poison/sizing"):
        assert (await shown(client, path))["slots"] == 3, path
    listed = {queue["name"]: queue["slots"] for queue in (await shown(client, "/queues"))["items"]}
    assert listed == {"poison": 3, "q": 100}


async def test_a_queue_of_other_types_only_is_no_capacity(engine: AsyncEngine, client: Client) -> None:
    """Nothing waits on it: its types are those whose default it is."""
    await do(engine, "UPDATE job_types SET queue = 'images' WHERE name = 'image.thumbnail'")
    (job,) = await limited_queue.put(engine, PostgresBroker(engine, ""), 1, type="image.thumbnail", queue="images")
    assert (await client.http.post(f"/jobs/{job}/cancel")).status_code == 202
    await a_worker(engine, slots=10, types=["noop"])
    assert (await shown(client, "/queues/images"))["slots"] == 0
    await a_worker(engine, slots=10, types=["noop"], queues=["images"])
    assert (await shown(client, "/queues/images"))["slots"] == 0
    await a_worker(engine, slots=2, types=["noop", "image.thumbnail"])
    assert (await shown(client, "/queues/images"))["slots"] == 2


async def test_the_queue_of_deliveries_is_a_queue(engine: AsyncEngine, client: Client) -> None:
    check_problem(await client.get("/queues/webhooks"), 404)
    job = await client.submit("noop", queue="q", callback_url="https://example.com/hook")
    assert (await client.http.post(f"/jobs/{job['id']}/cancel")).status_code == 202
    found = await shown(client, "/queues/webhooks")
    assert (found["depth"]["queued"], found["slots"]) == (1, 0)
    assert (await shown(client, "/queues/webhooks/sizing"))["backlog"] == 1
    assert "webhooks" in [queue["name"] for queue in (await shown(client, "/queues"))["items"]]
    await a_worker(engine, slots=7, types=["noop", "webhook.deliver"])
    assert (await shown(client, "/queues/webhooks"))["slots"] == 7
    assert (await client.http.patch("/queues/webhooks", json={"paused": True})).json()["paused"] is True


async def test_rates_and_sizing(engine: AsyncEngine, client: Client) -> None:
    for _ in range(10):
        await client.submit("noop", queue="q")
    await client.submit("noop", queue="q", delay=600)
    await measured(engine, 500, 2.0)
    queue = await shown(client)
    assert queue["rate_in"] == pytest.approx(5, rel=0.05)
    assert queue["rate_out"] == pytest.approx(5, rel=0.05)
    assert queue["mean_run_time"] == pytest.approx(2)
    found = await shown(client, "/queues/q/sizing")
    assert found["arrival_rate"] == queue["rate_in"]
    assert (found["backlog"], found["drain_within"], found["slots"]) == (10, 300, 0)
    assert found["slots_at_least"] in (10, 11)
    assert found["slots_advised"] == 13, "10 / 0.8 + 10 * 2 / 300"
    assert "jobs/s came, each ran 2 s" in found["detail"]
    sooner = await shown(client, "/queues/q/sizing?drain_within=2")
    assert sooner["slots_advised"] == 23


async def test_what_ran_under_a_lease_is_measured(app: HttpApp, engine: AsyncEngine, client: Client) -> None:
    await client.submit("noop", queue="q")
    (item,) = (await client.http.post("/queues/q/lease", json={})).json()["items"]
    await do(engine, "UPDATE attempts SET started_at = started_at - interval '7 seconds'")
    assert (await client.http.post(f"/leases/{item['lease']}/complete", json={"result": {}})).status_code < 300
    await app.state.measurements.report(engine)
    assert 7 <= (await shown(client))["mean_run_time"] < 12


async def test_what_waits_for_a_broker_that_is_away_is_a_backlog(engine: AsyncEngine, database_url: str) -> None:
    """The relay has taken it, and moved the time of its next try ahead: it is due all the same."""
    async with http_app(engine, database_url, broker_url="amqp://guest:guest@127.0.0.1:1/") as app:
        client, broker = await app.client(), app.state.broker
        for _ in range(3):
            await client.submit("noop", queue="q")
        await client.submit("noop", queue="q", delay=5)
        await do(engine, "UPDATE outbox SET due_at = due_at - interval '2 seconds'")
        assert await Relay(engine, broker, PollConnection(engine)).run_once() == 0
        assert (await shown(client, "/queues/q/sizing"))["backlog"] == 3
        async with transaction(engine) as conn:
            await queue_load.sample(conn)
            await conn.commit()
        (sampled,) = await rows(engine, "SELECT depth FROM queue_samples WHERE queue = 'q'")
        assert sampled["depth"] == 3
        await broker.close()


async def test_nothing_measured_is_said(client: Client) -> None:
    await client.submit("noop", queue="q")
    found = await shown(client, "/queues/q/sizing")
    for name in ("arrival_rate", "mean_run_time", "measured_over", "slots_at_least", "slots_advised"):
        assert found[name] is None, name
    assert "Nothing was measured yet" in found["detail"]
    assert (await shown(client))["rate_in"] is None


async def test_what_is_refused(client: Client) -> None:
    await client.submit("noop", queue="q")
    for path in ("/queues/unknown", "/queues/unknown/sizing", "/queues/Not-A-Name/sizing"):
        check_problem(await client.get(path), 404)
    for within in ("0", "-1", "nan", "inf", "x", "86401"):
        check_problem(await client.get(f"/queues/q/sizing?drain_within={within}"), 422, "/drain_within")
    check_problem(await client.get("/queues/q/sizing?within=5"), 422, "/within")
    check_problem(await client.get("/queues?limit=5"), 422, "/limit")


@pytest.mark.slow
async def test_it_stays_quick_with_a_million_finished_and_a_hundred_thousand_waiting(
    app: HttpApp, engine: AsyncEngine
) -> None:
    await do(engine, "INSERT INTO queues (name) SELECT 'q' || n FROM generate_series(0, 9) AS n")
    for first in range(0, 1_100_000, 20_000):
        await do(
            engine,
            "INSERT INTO jobs (id, tenant, type, queue, status, priority, max_attempts, payload, run_at) "
            "SELECT uuidv7(), 't', 'noop', 'q' || n % 10, :status, 4, 3, '{\"url\": \"x\"}', now() "
            "FROM generate_series(1, 20000) AS n",
            status="queued" if first >= 1_000_000 else "succeeded",
        )
    await do(
        engine,
        "INSERT INTO outbox (job_id, attempt, tenant, queue, priority, due_at, published) "
        "SELECT id, 0, tenant, queue, 4, now(), true FROM jobs WHERE status = 'queued'",
    )
    await do(engine, "ANALYZE")
    reader, admin = await app.client("t", "jobs:read"), await app.client()
    for client, path in ((reader, "/queues"), (admin, "/queues"), (admin, "/queues/q3"), (admin, "/queues/q3/sizing")):
        started = time.monotonic()
        await shown(client, path)
        took = time.monotonic() - started
        assert took < 2, path
