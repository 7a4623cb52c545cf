"""PUT /job-types: types of workers in any language; and what a Python worker does with jobs that are not for it."""

from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import job
from accepted.broker import create_broker
from accepted.broker.postgres import PostgresBroker
from accepted.storage import job_types, queues, room, workers
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import explain
from tests.support.clients.client import Client, check_problem, from_now
from tests.support.clients.lease_client import lease, one_lease, register, say, service
from tests.support.ledger.limited_queue import LEASE_TTL, a_worker
from tests.support.ledger.sql import rows
from tests.support.service.in_process_worker import HANDLERS, accept, handlers_of, working
from tests.support.service.live_api import Api
from tests.support.waiting import until

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[Api]:
    async with service(database_url, lease_ttl=30) as started:
        yield started


async def types(client: Client) -> dict[str, dict[str, object]]:
    return {each["name"]: each for each in (await client.get("/job-types")).json()["items"]}


async def test_a_type_is_put_shown_and_known_at_once(one: Api) -> None:
    client = await one.client()
    assert (await client.post({"type": "node.echo"})).status_code == 422
    answer = await register(client, description="Says it again.", timeout=5, payload_schema=SCHEMA, not_found="retry")
    assert answer.status_code == 201
    assert answer.json() == {
        "name": "node.echo", "description": "Says it again.", "queue": "node", "timeout": 5.0, "not_found": "retry",
        "retry": {"max_attempts": 5, "schedule": [0.1], "jitter": 0.0}, "external": True, "shared": False,
        "payload_schema": SCHEMA,
    }  # fmt: skip
    check_problem(await client.post({"type": "node.echo", "payload": {"n": "x"}}), 422, "/payload/n")
    job = await client.submit("node.echo", {"n": 1})
    assert (job["queue"], job["max_attempts"]) == ("node", 5)
    again = await client.http.put("/job-types/node.echo", json={})
    assert (again.status_code, again.json()["queue"], again.json()["payload_schema"]) == (200, "default", {})
    assert (await types(client))["node.echo"] == again.json()
    await client.submit("node.echo", {"n": "anything"})


async def test_what_is_refused(one: Api) -> None:
    client = await one.client()
    reader = await one.client(scopes=["jobs:read", "jobs:write"])
    for scope in ("jobs:work", "admin"):
        assert (await register(await one.client(scopes=[scope]))).status_code in (200, 201)
    check_problem(await register(reader), 403)
    check_problem(await register(client, "no type"), 422, "/name")
    check_problem(await register(client, timeout=0), 422, "/timeout")
    check_problem(await register(client, retry={"max_atempts": 1}), 422, "/retry/max_atempts", "max_attempts")
    check_problem(await register(client, payload_schema=True), 422, "/payload_schema")
    check_problem(await register(client, payload_schema={"type": "objec"}), 422, "/payload_schema/type")
    remote = {"properties": {"a": {"$ref": f"{one.url}/openapi.json"}}}
    check_problem(await register(client, payload_schema=remote), 422, "/payload_schema/properties/a/$ref", "fetched")
    check_problem(await register(client, payload_schema={"description": "x" * 200_000}), 413)


async def test_a_type_belongs_to_who_has_its_handler(one: Api) -> None:
    client = await one.client()
    async with transaction(one.state.engine) as conn:
        await job_types.register(conn, [HANDLERS["noop"].type])
        await conn.commit()
    await a_worker(one.state.engine, 1, types=["noop", "python.later"])
    for name in ("noop", "webhook.deliver", "alert.deliver"):
        check_problem(await register(client, name), 409)
    await register(client, "python.later")

    @job("python.later")
    async def later(payload: dict, ctx: object) -> None: ...

    async with transaction(one.state.engine) as conn:
        await job_types.register(conn, [handlers_of(later)["python.later"].type])
        await conn.commit()
    assert (await types(client))["python.later"]["external"] is False
    check_problem(await register(client, "python.later"), 409)


async def test_a_type_that_no_worker_has_any_more_can_be_put(one: Api) -> None:
    """And the other way round, as before. It is the tenant's own, and others keep the one that was registered."""
    client = await one.client()
    async with transaction(one.state.engine) as conn:
        await job_types.register(conn, [HANDLERS["noop"].type])
        await conn.commit()
    worker = await a_worker(one.state.engine, 1, types=["noop"])
    assert "handler" in check_problem(await register(client, "noop"), 409)["detail"]
    async with transaction(one.state.engine) as conn:
        await workers.retire(conn, worker)
        await conn.commit()
    answer = await register(client, "noop", payload_schema=SCHEMA)
    assert (answer.status_code, answer.json()["external"]) == (201, True)
    check_problem(await client.post({"type": "noop", "payload": {"n": "x"}}), 422, "/payload/n")
    assert (await types(await one.client("other")))["noop"]["external"] is False
    operator = await one.client("house", scopes=["operator"])
    answer = await operator.http.put("/job-types/noop?shared=true", json={"payload_schema": SCHEMA})
    assert (answer.status_code, answer.json()["shared"]) == (200, True)
    assert (await types(await one.client("other")))["noop"] == answer.json()


async def test_a_type_is_deleted_when_nobody_needs_it(one: Api) -> None:
    client = await one.client()

    async def delete(name: str = "node.echo", by: Client = client) -> httpx.Response:
        return await by.http.delete(f"/job-types/{name}")

    check_problem(await delete("never.seen"), 404)
    check_problem(await delete("webhook.deliver"), 409)
    await register(client)
    check_problem(await delete(by=await one.client(scopes=["jobs:read", "jobs:write"])), 403)
    waiting = await client.submit("node.echo", run_at=from_now(3600))
    assert "wait" in check_problem(await delete(), 409)["detail"]
    await client.http.post(f"/jobs/{waiting['id']}/cancel")
    job = await client.submit("node.echo")
    item = await one_lease(client, types=None)
    assert item["job"]["id"] == job["id"]
    assert "run" in check_problem(await delete(), 409)["detail"]
    assert (await say(client, item, "complete", result=1)).status_code == 200
    schedule = {"cron": "0 0 1 1 *", "job": {"type": "node.echo"}}
    assert (await client.http.put("/schedules/yearly", json=schedule)).status_code == 201
    assert "yearly" in check_problem(await delete(), 409)["detail"]
    assert (await client.http.delete("/schedules/yearly")).status_code == 204
    check_problem(await delete(by=await one.client("other")), 404)
    deleted = await delete()
    assert (deleted.status_code, deleted.content) == (204, b"")
    check_problem(await client.post({"type": "node.echo"}), 422, "/type")
    assert "node.echo" not in await types(client)
    assert (await client.job(waiting["id"]))["status"] == "cancelled", "its jobs stay"
    check_problem(await delete(), 404)
    assert (await register(client)).status_code == 201
    assert await lease(client, wait=0) == []
    assert "worker" in check_problem(await delete(), 409)["detail"], "who asked for leases a moment ago serves it"


async def test_which_queues_are_for_a_worker_of_every_queue(engine: AsyncEngine, database_url: str) -> None:
    broker = PostgresBroker(engine, database_url)
    await accept(engine, broker, "noop", queue="before")

    @job("py", queue="both")
    async def py(payload: dict, ctx: object) -> None: ...

    @job("js", queue="node")
    async def js(payload: dict, ctx: object) -> None: ...

    @job("js2", queue="both")
    async def js2(payload: dict, ctx: object) -> None: ...

    @job("js3", queue="before")
    async def js3(payload: dict, ctx: object) -> None: ...

    every = [HANDLERS["noop"].type, *(h.type for h in handlers_of(py, js, js2, js3).values())]
    async with transaction(engine) as conn:
        await job_types.register(conn, every)
        await queues.change(conn, "node", {"max_depth": 9})
        await conn.commit()
    for queue in ("default", "node", "both", "nobodys", "before"):
        await accept(engine, broker, "noop", queue=queue)
    for theirs, served in (
        (["noop", "py"], {"both", "default", "nobodys", "before"}),
        (["js", "js2"], {"both", "node", "nobodys", "before"}),
    ):
        worker = await a_worker(engine, 1, types=theirs)
        async with transaction(engine) as conn:
            assert set(await queues.served_by(conn, theirs)) == served
            for queue in ("default", "node", "both", "nobodys", "before"):
                seen = (await room.room(conn, queue, LEASE_TTL, limited=False)).free
                assert seen == int(queue in served), "the limiter knows it too"
                assert (await explain.worker_capacity(conn, "t", queue, "noop", LEASE_TTL)).for_queue == seen
            await workers.retire(conn, worker)
            await conn.commit()


@pytest.mark.parametrize("kind", ["postgres", "rabbitmq"])
async def test_a_python_worker_leaves_what_it_has_no_handler_for(
    request: pytest.FixtureRequest, database_url: str, kind: str
) -> None:
    """Both kinds of worker on one queue: each job is claimed by a worker that has its type, and by no other."""
    url = "postgres" if kind == "postgres" else request.getfixturevalue("amqp_url")
    async with service(database_url, url, lease_ttl=30) as one:
        client = await one.client()
        await register(client, queue="mixed")
        broker = create_broker(one.state.settings, one.state.engine)
        async with working(one.state.engine, broker, "mixed"):
            await until(lambda: _python_types(client), 20, "the worker's types")
            foreign = await client.submit("node.echo", retry={"max_attempts": 1})
            ours = await client.submit("noop", queue="mixed")
            assert (await client.finished(ours["id"]))["status"] == "succeeded"
            await until(lambda: _set_aside(one.state.engine), 20, "the worker to meet the job")
            waiting = await client.job(foreign["id"])
            assert (waiting["status"], waiting["attempt"], waiting["error"]) == ("queued", 0, None)
            assert (await client.get(f"/jobs/{foreign['id']}/explain")).json()["reason"] == "waits_for_lease"
            item = await one_lease(client, "mixed", types=["node.echo"])
            assert item["job"]["id"] == foreign["id"]
            done = (await say(client, item, "complete", result="js")).json()
        assert (done["status"], done["result"], done["error"]) == ("succeeded", "js", None)
        outcomes = [attempt["outcome"] for attempt in await client.attempts(foreign["id"])]
        assert outcomes == ["succeeded"]
        assert done["max_attempts"] == done["attempt"] == 1, "one attempt was charged, as the job allows"
        assert await lease(client, "mixed", wait=0) == []
        await broker.close()


async def _set_aside(engine: AsyncEngine) -> bool:
    return bool(await rows(engine, "SELECT 1 FROM outbox WHERE unserved = 'node.echo'"))


async def _python_types(client: Client) -> bool:
    return "noop" in await types(client)
