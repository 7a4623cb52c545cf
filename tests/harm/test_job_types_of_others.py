"""Job types that another tenant puts: of a name that somebody uses, and as many and as large as it can."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.faults.table import Measured
from tests.support.clients.client import Client, check_problem
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.api_attention import forget_peak, longest_answer, peak
from tests.support.service.running_service import Running, make_keys, serving, types_known

STOLEN = {"payload_schema": {"not": {}}, "queue": "stolen"}
WORKS = "jobs:read,jobs:write,jobs:work,admin"

MOST_MEMORY = 192 * 2**20
"""Bytes by which the API may grow. What was seen are 866 MB."""


@dataclass(frozen=True)
class Beside:
    """A service, and clients of two tenants."""

    running: Running
    a: Client
    b: Client


@pytest.fixture(scope="module")
async def beside(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Beside]:
    name = f"types_{uuid4().hex}"
    url = database_server.create_database(name, template=database_template)
    async with serving(url, {"ACCEPTED_AUTH": "required"}) as running:
        a, b = [running.client(key) for key in await make_keys(running.env, ("a", WORKS), ("b", WORKS))]
        await types_known(a)
        yield Beside(running, a, b)
    database_server.drop_database(name)


async def put(client: Client, name: str, body: dict[str, Any]) -> httpx.Response:
    return await client.http.put(f"/job-types/{name}", json=body)


@pytest.mark.fault("F79", moment="as seen: a type that nothing fits, and a stolen queue")
async def test_a_type_of_the_same_name_changes_nothing_for_others(beside: Beside) -> None:
    a, b = beside.a, beside.b
    assert (await put(a, "ext.a", {"queue": "of-a"})).status_code == 201
    before = await a.submit("ext.a", {"n": 1})
    assert (await put(b, "ext.a", STOLEN)).status_code == 201
    after = await a.submit("ext.a", {"n": 2})
    assert (before["queue"], after["queue"]) == ("of-a", "of-a")
    check_problem(await b.post({"type": "ext.a"}), 422, "/payload")
    check_problem(await put(b, "noop", STOLEN), 409)
    check_problem(await b.http.put("/job-types/noop?shared=true", json=STOLEN), 403)
    assert (await b.http.delete("/job-types/ext.a")).status_code == 204
    check_problem(await b.http.delete("/job-types/ext.a"), 404)
    leased = await a.http.post("/queues/of-a/lease", json={"max": 9, "wait": 20, "types": ["ext.a"]})
    assert {item["job"]["id"] for item in leased.json()["items"]} == {before["id"], after["id"]}
    check_problem(await a.http.delete("/job-types/ext.a"), 409)


@pytest.mark.fault("F79", moment="a queue that others come to later")
async def test_a_type_keeps_no_worker_from_the_jobs_of_others(beside: Beside) -> None:
    assert (await put(beside.b, "ext.b", {"queue": "first-of-b"})).status_code == 201
    await beside.b.submit("ext.b")
    assert (await beside.a.finish("noop", queue="first-of-b"))["status"] == "succeeded"


@pytest.mark.fault("F79", moment="as seen: 300 types of 120 KiB")
async def test_many_large_types_take_bounded_memory_and_nobody_waits(beside: Beside, measured: Measured) -> None:
    a, b = beside.a, beside.b
    schema = {"properties": {f"property{n:04}": {"type": "string", "maxLength": n} for n in range(2200)}}
    body = {"payload_schema": schema}
    await a.submit("noop")
    forget_peak(beside.running)
    before = peak(beside.running)
    asking = asyncio.create_task(longest_answer(beside.running.url))
    accepted = []
    for number in range(300):
        answer = await put(b, f"large{number}", body)
        if answer.status_code != 201:
            break
        accepted.append(f"large{number}")
    assert "bytes" in check_problem(answer, 409)["detail"]
    for name in accepted:
        check_problem(await b.post({"type": name, "payload": {"property0003": 1}}), 422, "/payload/property0003")
    assert len((await b.get("/job-types")).json()["items"]) > len(accepted) > 20
    asking.cancel()
    longest = await asking
    assert peak(beside.running) - before < MOST_MEMORY
    for name in accepted:
        assert (await b.http.delete(f"/job-types/{name}")).status_code == 204
    assert (await put(b, "small", {})).status_code == 201
    measured("others wait", longest, limit=1.0)
