"""Types of one's own: what is put over HTTP belongs to the caller's tenant, beside the types that all tenants share."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import job
from accepted.domain.tenants import SHARED
from accepted.services.job_types.registration import MAX_SCHEMAS, MAX_TYPES
from accepted.storage import job_types, queues, workers
from accepted.storage.db.engine import transaction
from tests.support.clients.client import Client, check_problem
from tests.support.clients.lease_client import ask, one_lease, register, say, service
from tests.support.ledger.limited_queue import a_worker
from tests.support.ledger.sql import do, rows
from tests.support.service.app_without_auth import application
from tests.support.service.in_process_worker import HANDLERS, handlers_of
from tests.support.service.live_api import EVERY_SCOPE, Api
from tests.support.waiting import until

OPERATOR = [*EVERY_SCOPE, "operator"]
NUMBER = {"properties": {"n": {"type": "integer"}}}
TEXT = {"properties": {"n": {"type": "string"}}}


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[Api]:
    async with service(database_url, lease_ttl=30) as started:
        yield started


async def share(operator: Client, name: str = "node.echo", **fields: Any) -> dict[str, Any]:
    answer = await operator.http.put(f"/job-types/{name}?shared=true", json={"queue": "node", **fields})
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


async def listed(client: Client) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in (await client.get("/job-types")).json()["items"]}


async def test_a_name_is_another_type_for_each_tenant(one: Api) -> None:
    a, b, c = [await one.client(tenant) for tenant in "abc"]
    assert (await register(a, payload_schema=NUMBER, queue="of-a")).status_code == 201
    assert (await register(b, payload_schema=TEXT, queue="of-b")).status_code == 201
    for client, right, wrong, queue in ((a, 1, "x", "of-a"), (b, "x", 1, "of-b")):
        check_problem(await client.post({"type": "node.echo", "payload": {"n": wrong}}), 422, "/payload/n")
        assert (await client.submit("node.echo", {"n": right}))["queue"] == queue
        assert (await listed(client))["node.echo"]["queue"] == queue
    check_problem(await c.post({"type": "node.echo"}), 422, "/type")
    assert "did you mean" not in check_problem(await c.post({"type": "node.ech"}), 422, "/type")["detail"]
    check_problem(await ask(c, types=["node.echo"]), 422, "/types/0")
    assert "node.echo" not in await listed(c)
    check_problem(await c.http.delete("/job-types/node.echo"), 404)
    assert (await register(b, payload_schema={"not": {}})).status_code == 200
    await a.submit("node.echo", {"n": 2})


async def test_a_shared_type_is_for_who_has_none_of_its_own(one: Api) -> None:
    a, b = await one.client("a", scopes=OPERATOR), await one.client("b")
    assert (await share(a, payload_schema=NUMBER))["shared"] is True
    check_problem(await b.post({"type": "node.echo", "payload": {"n": "x"}}), 422, "/payload/n")
    assert (await register(b, payload_schema=TEXT)).status_code == 201
    await b.submit("node.echo", {"n": "x"})
    check_problem(await a.post({"type": "node.echo", "payload": {"n": "x"}}), 422, "/payload/n")
    assert [(await listed(each))["node.echo"]["shared"] for each in (a, b)] == [True, False]
    for each in (await b.get("/jobs")).json()["items"]:
        await b.http.post(f"/jobs/{each['id']}/cancel")
    assert (await b.http.delete("/job-types/node.echo")).status_code == 204
    check_problem(await b.post({"type": "node.echo", "payload": {"n": "x"}}), 422, "/payload/n")


async def test_only_an_operator_changes_shared_types(one: Api) -> None:
    operator = await one.client("house", scopes=["operator"])
    tenant = await one.client("a", scopes=["jobs:work", "admin"])
    for method in ("put", "delete"):
        body = {"json": {}} if method == "put" else {}
        check_problem(await getattr(tenant.http, method)("/job-types/x?shared=true", **body), 403)
        check_problem(await getattr(operator.http, method)("/job-types/x", **body), 403)
    await share(operator, "x")
    assert (await operator.http.delete("/job-types/x?shared=true")).status_code == 204
    check_problem(await tenant.http.put("/job-types/x?shared=perhaps", json={}), 422)


async def test_a_shared_type_stays_while_a_tenant_without_its_own_needs_it(one: Api) -> None:
    operator, a = await one.client("house", scopes=OPERATOR), await one.client("a")
    await share(operator)
    await register(a)
    own = await a.submit("node.echo")
    assert (await operator.http.delete("/job-types/node.echo?shared=true")).status_code == 204
    await share(operator)
    await (await one.client("b")).submit("node.echo")
    check_problem(await operator.http.delete("/job-types/node.echo?shared=true"), 409)
    assert (await a.job(own["id"]))["status"] == "queued"


async def test_the_policy_of_an_attempt_is_that_of_its_tenants_type(one: Api) -> None:
    """The wait after a failure, the timeout and `not_found` of a lease, and the budget of a manual retry."""
    a, b = await one.client("a", scopes=OPERATOR), await one.client("b")
    await share(a, retry={"max_attempts": 9, "schedule": [3600], "jitter": 0}, timeout=9, not_found="skip")
    await register(b, retry={"max_attempts": 2, "schedule": [0.1], "jitter": 0}, timeout=5)
    for client, at_most, ends in ((a, 9, "succeeded"), (b, 5, "failed")):
        await client.submit("node.echo")
        item = await one_lease(client)
        seconds = await rows(one.state.engine, "SELECT EXTRACT(epoch FROM ends_at - started_at) AS s FROM workers "
                             "WHERE ends_at IS NOT NULL")  # fmt: skip
        assert [round(float(each["s"])) for each in seconds] == [at_most]
        assert (await say(client, item, "fail", **{"class": "not_found"}, message="")).json()["status"] == ends
    for client, again in ((a, "retrying"), (b, "failed")):
        job = await client.submit("node.echo")
        for left in range(2):
            item = await one_lease(client)
            told = (await say(client, item, "fail", **{"class": "transient"}, message="")).json()
            if client is a or left == 1:
                break
        assert told["status"] == again
    retried = (await b.http.post(f"/jobs/{job['id']}/retry")).json()
    assert retried["max_attempts"] == 2 + 2


async def test_a_tenants_type_takes_no_queue_from_others(one: Api) -> None:
    """A worker of every queue serves it, though it has no handler for the only type whose default it is."""
    a, b = await one.client("a"), await one.client("b")
    await register(b, queue="later")
    await b.submit("node.echo")
    async with transaction(one.state.engine) as conn:
        await job_types.register(conn, [HANDLERS["noop"].type])
        await conn.commit()
        assert await queues.served_by(conn, ["noop"]) == ["later"]
    worker = await a_worker(one.state.engine, 2, types=["noop"])
    await a.submit("noop", queue="later")
    assert (await a.get("/queues/later")).json()["slots"] == 2
    async with transaction(one.state.engine) as conn:
        await workers.retire(conn, worker)
        await conn.commit()
    for each in (await a.get("/jobs")).json()["items"]:
        await a.http.post(f"/jobs/{each['id']}/cancel")
    job = await one_lease(b, "later")
    assert (await say(b, job, "complete", result=1)).status_code == 200
    await do(one.state.engine, "DELETE FROM workers")  # the lease client's, which lives for as long as a lease
    both = {tenant: await one.client(tenant, ["operator"]) for tenant in ("a", "b")}
    check_problem(await both["b"].http.delete("/queues/later"), 409)
    assert (await both["a"].http.delete("/queues/later")).status_code == 204, "another tenant's type does not keep it"


async def test_a_handler_takes_the_name_for_all_tenants(one: Api) -> None:
    a = await one.client("a")
    await register(a, "python.later", payload_schema=NUMBER)

    @job("python.later")
    async def later(payload: dict, ctx: object) -> None: ...

    async with transaction(one.state.engine) as conn:
        await job_types.register(conn, [handlers_of(later)["python.later"].type])
        await conn.commit()
    await until(lambda: _submits(a, "python.later", {"n": "x"}), 10, "the handler's type")
    assert (await listed(a))["python.later"]["shared"] is True


async def test_a_tenant_has_so_many_types_and_bytes_of_schemas(one: Api) -> None:
    a, b = await one.client("a"), await one.client("b")
    large = {"description": "x" * 120_000}
    put = "INSERT INTO job_types (tenant, name, queue, max_attempts, schedule, jitter, payload_schema, external) "
    many = put + "SELECT 'a', 't' || n, 'q', 5, '{1}', 0, CAST(:schema AS json), true FROM generate_series(1, :n) AS n"
    await do(one.state.engine, many, n=MAX_TYPES - 1, schema="{}")
    assert (await register(a, "last")).status_code == 201
    assert f"{MAX_TYPES} types" in check_problem(await register(a, "one.more"), 409)["detail"]
    assert (await register(a, "last")).status_code == 200, "one of them may be changed"
    assert (await a.http.delete("/job-types/t1")).status_code == 204
    assert (await register(a, "one.more")).status_code == 201
    await do(one.state.engine, "DELETE FROM job_types WHERE tenant = 'a'")
    text = '{"description": "' + "x" * (MAX_SCHEMAS // 40) + '"}'
    await do(one.state.engine, many, n=39, schema=text)
    check_problem(await register(a, "one.more", payload_schema=large), 409)
    assert (await register(a, "t1", payload_schema={})).status_code == 200
    assert (await register(b, "one.more", payload_schema=large)).status_code == 201, "others have room"
    assert await rows(one.state.engine, "SELECT 1 FROM job_types WHERE tenant = :none", none=SHARED) == []


async def test_without_authentication_every_type_is_shared(engine: AsyncEngine, database_url: str) -> None:
    async with application(engine, database_url) as http:
        for query, status in (("", 201), ("?shared=true", 200)):
            answer = await http.put(f"/job-types/node.echo{query}", json={})
            assert (answer.status_code, answer.json()["shared"]) == (status, True)
        assert (await http.post("/jobs", json={"type": "node.echo"})).status_code == 202
        check_problem(await http.delete("/job-types/node.echo"), 409)
    assert await rows(engine, "SELECT tenant FROM job_types WHERE name = 'node.echo'") == [{"tenant": SHARED}]


async def _submits(client: Client, type_: str, payload: dict[str, Any]) -> bool:
    return (await client.post({"type": type_, "payload": payload})).status_code == 202
