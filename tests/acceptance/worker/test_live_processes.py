"""GET /workers shows every live process and what it runs; POST /workers/{id}/drain ends one. Contract, section 4."""

import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import accepted as product
from tests.support.clients.client import PATIENCE, UUID7, Client, check_problem
from tests.support.clients.lease_client import ask, one_lease, register, say
from tests.support.ledger.sql import do
from tests.support.service.processes import Service
from tests.support.service.running_service import Running, accepted, make_keys, serving, types_known
from tests.support.waiting import until

FIELDS = {
    "id", "kind", "name", "version", "started_at", "heartbeat_at", "queues", "types", "slots", "busy", "running",
    "loops",
}  # fmt: skip
LOOPS = {
    "relay", "transactions", "limiter", "rescuer", "overdue", "reconciler", "expiry", "cron", "batches", "pruner",
    "rejections", "sampler", "letters",
}  # fmt: skip

Item = dict[str, Any]


@pytest.fixture
async def rabbit(database_url: str, session_broker: str) -> AsyncIterator[Running]:
    """The trio on RabbitMQ, with a worker of one slot: what is drained has messages to give back and to ack."""
    env = {"ACCEPTED_AUTH": "off", "ACCEPTED_BROKER_URL": session_broker, "ACCEPTED_SHUTDOWN_GRACE": "2"}
    async with serving(database_url, env, slots=1) as running:
        await types_known(running.client())
        yield running


async def live(client: Client) -> list[Item]:
    answer = await client.get("/workers")
    assert answer.status_code == 200, answer.text
    items: list[Item] = answer.json()["items"]
    return items


async def one(client: Client, kind: str) -> Item:
    async def shown() -> Item | None:
        return next((item for item in await live(client) if item["kind"] == kind), None)

    return await until(shown, PATIENCE, kind)


async def runs(client: Client, job: Item) -> Item:
    """The process that runs the job, once it does."""

    async def found() -> Item | None:
        items = await live(client)
        return next((item for item in items if job["id"] in [each["id"] for each in item["running"]]), None)

    return await until(found, PATIENCE, "a worker that runs the job")


async def turns(client: Client, loops: set[str]) -> bool:
    """Its first heartbeat may come before its loops have begun."""
    return {loop["name"] for loop in (await one(client, "scheduler"))["loops"]} >= loops


async def drain(client: Client, item: Item) -> Item:
    answer = await client.http.post(f"/workers/{item['id']}/drain")
    assert answer.status_code == 202, answer.text
    drained: Item = answer.json()
    return drained


async def test_a_drained_process_finishes_what_it_holds_and_exits_0(rabbit: Running) -> None:
    client = rabbit.client()
    scheduler, api = await one(client, "scheduler"), await one(client, "api")
    await until(lambda: turns(client, LOOPS), PATIENCE, "all loops to turn", interval=0.2)
    long = await client.submit("sleep", {"seconds": 4}, queue="q")
    worker = await runs(client, long)
    behind = await client.submit("noop", queue="q")
    assert worker.keys() >= FIELDS
    assert UUID7.fullmatch(worker["id"])
    assert (worker["kind"], worker["slots"], worker["busy"]) == ("worker", 1, 1)
    assert {key: worker["running"][0][key] for key in ("id", "type", "attempt", "ending")} == {
        "id": long["id"], "type": "sleep", "attempt": 1, "ending": False,
    }  # fmt: skip
    assert {item["version"] for item in (worker, scheduler, api)} == {product.__version__}
    assert {"noop", "sleep", "webhook.deliver"} <= {*worker["types"]}
    assert worker["name"].endswith(f":{rabbit.services['worker'].pid}")
    (attempt,) = await client.attempts(long["id"])
    assert attempt["worker"] == worker["id"]

    drained = await drain(client, worker)
    assert (drained["id"], drained["draining"]) == (worker["id"], True)
    assert (await drain(client, worker))["draining"]
    assert await rabbit.services["worker"].wait_exit(PATIENCE) == 0
    ended = await client.job(long["id"])
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)  # longer than the grace of a stop
    assert [(await client.job(behind["id"]))[key] for key in ("status", "attempt")] == ["queued", 0]
    assert "worker" not in {item["kind"] for item in await live(client)}
    check_problem(await client.http.post(f"/workers/{worker['id']}/drain"), 404)

    rabbit.services["worker"].start()
    assert (await client.finished(behind["id"]))["status"] == "succeeded"
    await drain(client, scheduler)
    assert await rabbit.services["scheduler"].wait_exit() == 0
    await drain(client, api)
    assert await rabbit.services["api"].wait_exit() == 0


async def test_a_stop_ends_a_drain_within_its_grace(rabbit: Running) -> None:
    client = rabbit.client()
    job = await client.submit("sleep", {"seconds": 600}, queue="q")
    await drain(client, await runs(client, job))
    worker: Service = rabbit.services["worker"]
    await until(lambda: "worker_draining" in worker.log(), PATIENCE, worker.log)
    assert await worker.terminate(20) == 0
    assert (await client.job(job["id"]))["status"] == "queued"


async def test_loops_and_heartbeats_go_on(trio: Running, client: Client) -> None:
    async def turned() -> bool:
        loops = {loop["name"]: loop for loop in (await one(client, "scheduler"))["loops"]}
        recent = (datetime.now(UTC) - timedelta(seconds=30)).isoformat()
        return all((loops[name]["last_success_at"] or "") > recent for name in ("relay", "cron"))

    await until(turned, PATIENCE, "loops that have just run", interval=0.2)


async def test_a_tenant_sees_its_own_jobs_on_shared_workers(
    trio: Running, keys: Mapping[str, str], client: Client, other: Client, queue: str
) -> None:
    mine = await client.submit("sleep", {"seconds": 60}, queue=queue)
    shown = await runs(client, mine)
    for_other = next(item for item in await live(other) if item["id"] == shown["id"])
    assert for_other["busy"] >= 1
    assert mine["id"] not in json.dumps(for_other)
    (operator,) = await make_keys(trio.env, ("ops", "jobs:read,operator"))
    assert mine["id"] in json.dumps(await live(trio.client(operator)))
    for key, status in (("reader", 403), ("writer", 403), ("acme", 403)):  # of tenants that are not alone
        check_problem(await trio.client(keys[key]).http.post(f"/workers/{shown['id']}/drain"), status)
    check_problem(await trio.client(operator).http.post(f"/workers/{uuid4()}/drain"), 404)
    check_problem(await trio.client(keys["writer"]).get("/workers"), 403)
    await client.http.post(f"/jobs/{mine['id']}/cancel")


async def test_an_http_worker_is_its_tenants(client: Client, other: Client, queue: str) -> None:
    assert (await register(client, f"{queue}.echo", queue=queue)).status_code == 201
    job = await client.submit(f"{queue}.echo", queue=queue)
    item = await one_lease(client, queue)
    shown = await runs(client, job)
    assert (shown["kind"], shown["over_http"], shown["busy"]) == ("worker", True, 1)
    assert (shown["queues"], shown["types"]) == ([queue], [f"{queue}.echo"])
    assert shown["name"] not in {each["name"] for each in await live(other)}
    check_problem(await client.http.post(f"/workers/{shown['id']}/drain"), 403)
    assert (await say(client, item, "complete")).status_code == 200
    assert (await ask(client, queue, wait=0)).status_code == 200


async def test_a_silent_process_is_not_shown(database_url: str, engine: AsyncEngine) -> None:
    """`dev` is all three in one; one of its parts does not drain. The terminal shows the same."""
    dead = UUID(int=7)
    await do(
        engine,
        "INSERT INTO processes (id, kind, host, pid, version, started_at, heartbeat_at) "
        "VALUES (:id, 'scheduler', 'h', 1, '0', now(), now() - interval '36 seconds')",
        id=dead,
    )
    async with serving(database_url, {}, dev=True) as running:
        client = running.client()
        await types_known(client)
        for kind in ("api", "scheduler", "worker"):
            part = await one(client, kind)
            check_problem(await client.http.post(f"/workers/{part['id']}/drain"), 409, says="accepted dev")
        assert str(dead) not in {item["id"] for item in await live(client)}
        check_problem(await client.http.post(f"/workers/{dead}/drain"), 404)
        plain = await accepted("workers", "list", env=running.env)
        assert plain.code == 0, plain
        assert all(kind in plain.out for kind in ("api", "scheduler", "worker"))
        as_json = await accepted("workers", "list", "--json", env=running.env)
        assert {item["kind"] for item in json.loads(as_json.out)["items"]} == {"api", "scheduler", "worker"}
        refused = await accepted("workers", "drain", part["id"], env=running.env)
        assert (refused.code, refused.out) == (1, "")
        assert "accepted dev" in refused.err
