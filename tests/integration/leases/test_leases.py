"""Workers in any language: lease, heartbeat, progress, complete and fail, through HTTP, on either broker."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from accepted.broker import create_broker
from accepted.domain import transitions
from accepted.domain.references import Lease, read_token
from accepted.storage import leases
from accepted.storage.db.engine import transaction
from tests.support.clients.client import Client, check_problem, from_now
from tests.support.clients.lease_client import LEASE_TTL, ask, lease, one_lease, register, say, service
from tests.support.service.in_process_worker import working
from tests.support.service.live_api import Api, api
from tests.support.waiting import until


@pytest.fixture(params=["postgres", "rabbitmq"])
async def live(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Api]:
    broker_url = "postgres" if request.param == "postgres" else request.getfixturevalue("amqp_url")
    async with service(database_url, broker_url) as one:
        yield one


@pytest.fixture
async def pg(database_url: str) -> AsyncIterator[Api]:
    async with service(database_url, lease_ttl=30) as one:
        yield one


async def workers_of(one: Api) -> list[tuple[str, int]]:
    async with transaction(one.state.engine) as conn:
        found = await conn.execute(text("SELECT name, slots FROM workers WHERE ends_at IS NOT NULL"))
        return [(row[0], row[1]) for row in found]


async def test_lease_heartbeat_progress_complete(live: Api) -> None:
    client = await live.client(name="laptop")
    assert (await register(client)).status_code == 201
    asking = asyncio.create_task(one_lease(client, types=["node.echo"]))
    job = await client.submit("node.echo", {"n": 1})
    item = await asking
    assert item["job"] == await client.job(job["id"])
    assert (item["job"]["status"], item["job"]["attempt"], item["job"]["payload"]) == ("running", 1, {"n": 1})
    assert await workers_of(live) == [("lease:laptop", 1)]
    for verb, body in (("heartbeat", {}), ("progress", {"percent": 40, "message": "half-way"})):
        beat = (await say(client, item, verb, **body)).json()
        assert (beat["lease"], beat["cancelled"]) == (item["lease"], False)
        assert beat["expires_at"] > item["expires_at"]
    assert (await client.job(job["id"]))["progress"] == {"percent": 40, "message": "half-way"}
    done = await say(client, item, "complete", result={"said": [1, None]})
    assert (done.status_code, done.json()["status"], done.json()["result"]) == (200, "succeeded", {"said": [1, None]})
    assert await workers_of(live) == []
    for verb, body in (("complete", {"result": 2}), ("fail", {"class": "auth"}), ("heartbeat", {})):
        check_problem(await say(client, item, verb, **body), 409)
    assert (await client.job(job["id"]))["result"] == {"said": [1, None]}
    (attempt,) = await client.attempts(job["id"])
    assert attempt["outcome"] == "succeeded"


async def test_each_class_of_failure_takes_its_own_way(live: Api) -> None:
    client = await live.client()
    await register(client)
    await register(client, "node.skips", not_found="skip")
    ends = {"transient": "retrying", "timeout": "retrying", "rate_limited": "retrying", "crashed": "queued",
            "invalid": "failed", "auth": "failed", "not_found": "failed"}  # fmt: skip
    for kind, status in ends.items():
        job = await client.submit("node.echo", {"class": kind}, queue=kind.replace("_", "-"))
        item = await one_lease(client, job["queue"])
        after = {"retry_after": 30} if kind == "rate_limited" else {}
        done = (await say(client, item, "fail", **{"class": kind, "message": f"it was {kind}"}, **after)).json()
        assert (done["status"], done["error"]["class"]) == (status, kind)
        assert f"it was {kind}" in done["error"]["message"]
        if kind == "rate_limited":
            assert datetime.fromisoformat(done["run_at"]).timestamp() > time.time() + 25
        if status in ("retrying", "queued") and kind != "rate_limited":
            again = await one_lease(client, job["queue"])
            assert (again["job"]["id"], again["job"]["attempt"]) == (job["id"], 2)
            assert (await say(client, again, "complete")).json()["status"] == "succeeded"
    skipped = await client.submit("node.skips")
    done = (await say(client, await one_lease(client), "fail", **{"class": "not_found"})).json()
    assert (done["id"], done["status"], done["result"]) == (skipped["id"], "succeeded", {"skipped": True})


async def test_a_silent_lease_runs_out_and_is_not_heard_any_more(live: Api) -> None:
    client = await live.client()
    await register(client)
    job = await client.submit("node.echo")
    first = await one_lease(client)
    second = await one_lease(client)
    assert (second["job"]["id"], second["job"]["attempt"]) == (job["id"], 2)
    for verb, body in (("complete", {"result": "late"}), ("heartbeat", {}), ("progress", {"percent": 1})):
        check_problem(await say(client, first, verb, **body), 409)
    assert (await say(client, second, "complete", result="in time")).json()["result"] == "in time"
    assert [one["outcome"] for one in await client.attempts(job["id"])] == ["crashed", "succeeded"]
    await until(lambda: _none_left(live), 10, "the worker of the lost lease to be forgotten")


async def _none_left(one: Api) -> bool:
    return await workers_of(one) == []


async def test_heartbeats_keep_a_lease_until_its_timeout(live: Api) -> None:
    client = await live.client()
    await register(client, retry={"max_attempts": 1})
    job = await client.submit("node.echo", timeout=2 * LEASE_TTL)
    item = await one_lease(client)
    beats = 0
    while (answer := await say(client, item, "heartbeat")).status_code == 200:
        beats += 1
        assert answer.json()["expires_at"] < from_now(2 * LEASE_TTL)
        await asyncio.sleep(LEASE_TTL / 4)  # the pace of a worker
    check_problem(answer, 409)
    assert beats >= 6, "longer than a lease without a heartbeat"
    done = await client.job(job["id"])
    assert (done["status"], done["error"]["class"]) == ("failed", "timeout")
    assert 2 * LEASE_TTL <= _ran(done) < 2 * LEASE_TTL + 3


def _ran(job: dict[str, str]) -> float:
    ended, began = (datetime.fromisoformat(job[name]) for name in ("finished_at", "started_at"))
    return (ended - began).total_seconds()


async def test_a_cancel_is_told_and_then_nothing_counts(live: Api) -> None:
    client = await live.client()
    await register(client)
    jobs = [await client.submit("node.echo") for _ in range(3)]
    items = {item["job"]["id"]: item for item in await lease(client, most=3)}
    while len(items) < 3:
        items |= {item["job"]["id"]: item for item in await lease(client, most=3)}
    told, confirmed, silent = (items[job["id"]] for job in jobs)
    early = await say(client, told, "fail", **{"class": "cancelled"})
    check_problem(early, 422, "/class")
    for item in items.values():
        assert (await client.http.post(f"/jobs/{item['job']['id']}/cancel")).status_code == 202
    assert (await say(client, told, "heartbeat")).json()["cancelled"] is True
    assert (await say(client, told, "progress", percent=9)).json()["cancelled"] is True
    check_problem(await say(client, told, "complete", result=1), 409)
    assert (await say(client, confirmed, "fail", **{"class": "cancelled"})).json()["status"] == "cancelled"
    assert (await say(client, silent, "heartbeat")).json()["cancelled"] is True
    for item in items.values():
        done = await client.until_status(item["job"]["id"], "cancelled", timeout=6)
        assert (done["error"]["class"], done["result"]) == ("cancelled", None)
    check_problem(await say(client, silent, "complete", result=1), 409)


async def test_a_holder_that_was_told_and_says_no_more_is_not_waited_for(pg: Api) -> None:
    client = await pg.client()
    await register(client)
    job = await client.submit("node.echo")
    item = await one_lease(client)
    await client.http.post(f"/jobs/{job['id']}/cancel")
    assert (await say(client, item, "heartbeat")).json()["cancelled"] is True
    await client.until_status(job["id"], "cancelled", timeout=12)  # seconds: well under a lease
    check_problem(await say(client, item, "complete", result=1), 409)


async def test_a_lease_is_of_its_tenant_and_of_its_scope(pg: Api) -> None:
    client, other = await pg.client(), await pg.client("globex")
    reader = await pg.client(scopes=["jobs:read", "jobs:write", "admin"])
    await register(client)
    await client.submit("node.echo")
    assert await lease(other, wait=0) == []
    check_problem(await ask(reader), 403)
    item = await one_lease(client)
    for verb, body in (("complete", {}), ("fail", {"class": "auth"}), ("heartbeat", {}), ("progress", {"percent": 1})):
        check_problem(await say(other, item, verb, **body), 404)
        check_problem(await say(reader, item, verb, **body), 403)
        for token in ("x", "A" * 48, item["lease"][:-1], item["lease"] + "A", "é", item["lease"][::-1]):
            check_problem(await say(client, {"lease": token}, verb, **body), 404)
    assert (await say(client, item, "complete")).status_code == 200


async def test_what_bodies_may_hold(pg: Api) -> None:
    client = await pg.client()
    await register(client)
    check_problem(await ask(client, max=0), 422, "/max")
    check_problem(await ask(client, max=101), 422, "/max")
    check_problem(await ask(client, wait=61), 422, "/wait")
    check_problem(await ask(client, types=[]), 422, "/types")
    check_problem(await ask(client, types=["node.echo", "node.ecko"]), 422, "/types/1")
    check_problem(await ask(client, types=["webhook.deliver"]), 422, "/types/0")
    check_problem(await ask(client, typs=["a"]), 422, "/typs", "types")
    check_problem(await ask(client, "NO QUEUE"), 404)
    assert (await client.http.post("/queues/none-yet/lease")).json() == {"items": []}
    job = await client.submit("node.echo")
    item = await one_lease(client)
    check_problem(await say(client, item, "fail"), 422, "/class")
    check_problem(await say(client, item, "fail", **{"class": "expired"}), 422, "/class")
    check_problem(await say(client, item, "fail", **{"class": "transient", "retry_after": -1}), 422, "/retry_after")
    check_problem(await say(client, item, "progress", percent=101), 422, "/percent")
    check_problem(await say(client, item, "complete", results=1), 422, "/results", "result")
    check_problem(await say(client, item, "heartbeat", percent=1), 422, "/percent")
    most = pg.state.settings.max_result_bytes
    check_problem(await say(client, item, "complete", result="x" * (most - 1)), 413)
    assert (await client.job(job["id"]))["status"] == "running", "the lease still holds"
    assert (await say(client, item, "complete", result="x" * (most - 2))).status_code == 200


async def test_two_outcomes_at_once_are_one(pg: Api) -> None:
    client = await pg.client()
    await register(client)
    await client.submit("node.echo")
    item = await one_lease(client)
    answers = await asyncio.gather(*(say(client, item, "complete", result=n) for n in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19


async def test_jobs_are_leased_by_priority_and_type(pg: Api) -> None:
    client = await pg.client()
    await register(client)
    await register(client, "node.other")
    low = await client.submit("node.echo", priority=1)
    await client.submit("node.other", priority=9)
    high = await client.submit("node.echo", priority=8)
    await client.submit("node.echo", delay=60)
    await client.submit("node.echo", queue="elsewhere")
    found = await lease(client, most=10, types=["node.echo"])
    assert [item["job"]["id"] for item in found] == [high["id"], low["id"]]
    assert json.dumps(found).count('"node.other"') == 0


async def test_a_python_workers_attempt_is_no_lease(pg: Api) -> None:
    """Who may read a job sees the worker of its attempt, and can make a token of it. The token grants nothing."""
    client = await pg.client()
    await register(client)
    broker = create_broker(pg.state.settings, pg.state.engine)
    async with working(pg.state.engine, broker, "q"):
        job = await until(lambda: _accepted(client), 20, "the worker's types")
        await client.until_status(job["id"], "running")
        (attempt,) = await client.attempts(job["id"])
        token = Lease(UUID(job["id"]), 1, UUID(attempt["worker"])).token
        for verb, body in (("complete", {"result": 1}), ("fail", {"class": "auth"}), ("heartbeat", {})):
            check_problem(await say(client, {"lease": token}, verb, **body), 404)
        assert (await client.finished(job["id"]))["result"] != 1


async def _accepted(client: Client) -> dict[str, Any] | None:
    answer = await client.post({"type": "sleep", "payload": {"seconds": 2}, "queue": "q"})
    return answer.json() if answer.status_code == 202 else None


async def test_webhooks_are_not_leased(pg: Api) -> None:
    client = await pg.client()
    await register(client)
    job = await client.submit("node.echo", callback_url="https://example.com/")
    await client.http.post(f"/jobs/{job['id']}/cancel")
    listed = await client.get("/jobs?queue=webhooks")
    assert [each["type"] for each in listed.json()["items"]] == ["webhook.deliver"]
    assert await lease(client, "webhooks", wait=1.5) == []


async def test_jobs_of_external_types_are_leased_while_the_broker_is_away(database_url: str) -> None:
    async with api(database_url, "amqp://guest:guest@127.0.0.1:9/") as one:
        client = await one.client()
        await register(client)
        job = await client.submit("node.echo")
        item = await one_lease(client)
        assert item["job"]["id"] == job["id"]
        assert (await say(client, item, "complete")).json()["status"] == "succeeded"


async def test_of_two_outcomes_in_one_batch_the_first_counts(pg: Api) -> None:
    client = await pg.client()
    await register(client)
    await client.submit("node.echo")
    token = read_token((await one_lease(client))["lease"])
    assert token is not None
    async with transaction(pg.state.engine) as conn:
        found = await leases.find(conn, token)
    assert found is not None
    both = [pg.state.leases._record(transitions.succeeded(found.running, result)) for result in ("1", "2")]
    assert await asyncio.gather(*both) == [True, False]


async def test_progress_and_the_outcome_at_once_do_not_lock_each_other_out(pg: Api) -> None:
    """Both lock the job and its lease, in the same order: otherwise one of the two would be a 503 now and then."""
    client = await pg.client()
    await register(client)
    for _ in range(5):
        await asyncio.gather(*(client.submit("node.echo") for _ in range(20)))
        items: list[Any] = []
        while len(items) < 20:
            items += await lease(client, most=20 - len(items))
        said = asyncio.gather(*(say(client, item, "progress", percent=n) for item in items for n in (1, 2)))
        done = await asyncio.gather(*(say(client, item, "complete", result=1) for item in items))
        assert {answer.status_code for answer in done} == {200}
        assert {answer.status_code for answer in await said} <= {200, 409}
