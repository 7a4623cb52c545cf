"""Limits that hold for every way in which a tenant makes jobs, and the ways that they do not concern."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.clients.client import Client, check_problem
from tests.support.service.http_app import HttpApp, allow, http_app, statuses

SCHEDULE = {"cron": "0 0 1 1 *", "job": {"type": "noop", "queue": "q"}}


@pytest.fixture
async def app(engine: AsyncEngine, database_url: str) -> AsyncIterator[HttpApp]:
    async with http_app(engine, database_url) as app:
        yield app


async def with_schedule(app: HttpApp) -> Client:
    client = await app.client()
    assert (await client.http.put("/schedules/s", json=SCHEDULE)).status_code == 201
    return client


@pytest.mark.fault("F84", moment="a schedule triggered again and again by a tenant with a quota")
async def test_a_trigger_takes_from_the_quota(app: HttpApp) -> None:
    client = await with_schedule(app)
    await allow(app, 3)
    answers = [await client.http.post("/schedules/s/trigger") for _ in range(5)]
    assert statuses(answers) == {202: 3, 429: 2}
    problem = check_problem(answers[-1], 429)
    assert problem["type"] == "/problems/quota-exceeded"
    assert answers[0].headers["ratelimit"].startswith('"jobs";r=2')
    assert len((await client.get("/schedules/s/runs")).json()["items"]) == 3, "a refusal leaves no run"
    check_problem(await client.post({"type": "noop"}), 429)


@pytest.mark.fault("F84", moment="a schedule triggered for a queue that is full")
async def test_a_trigger_keeps_to_the_depth_of_the_queue(app: HttpApp) -> None:
    client = await with_schedule(app)
    await client.http.patch("/queues/q", json={"max_depth": 2})
    await app.state.limits.refresh()
    answers = [await client.http.post("/schedules/s/trigger") for _ in range(4)]
    assert statuses(answers) == {202: 2, 429: 2}
    assert check_problem(answers[-1], 429)["type"] == "/problems/queue-full"


@pytest.mark.fault("F84", moment="a trigger that makes no job")
async def test_a_refused_trigger_gives_its_share_back(app: HttpApp) -> None:
    client = await app.client()
    job = {"type": "noop", "unique": {"key": "one", "until": "finished"}}
    assert (await client.http.put("/schedules/s", json={**SCHEDULE, "job": job})).status_code == 201
    await allow(app, 2)
    answers = [await client.http.post("/schedules/s/trigger") for _ in range(4)]
    assert statuses(answers) == {202: 1, 409: 3}
    assert (await client.post({"type": "noop"})).status_code == 202


@pytest.mark.fault("F90", moment="one tenant fills a queue up to its max_depth")
async def test_who_fills_a_queue_shuts_nobody_else_out(app: HttpApp) -> None:
    flood, other = await app.client("flood"), await app.client("other")
    await flood.http.patch("/queues/q", json={"max_depth": 3})
    await app.state.limits.refresh()
    noop = {"type": "noop", "queue": "q"}
    assert statuses([await flood.post(noop) for _ in range(5)]) == {202: 3, 429: 2}
    assert statuses([await other.post(noop) for _ in range(4)]) == {202: 3, 429: 1}, "and has no more than its own part"
    await app.state.limits.refresh()
    problem = check_problem(await flood.http.post("/batches", json={"jobs": [noop]}), 429)
    assert problem["type"] == "/problems/queue-full"
    third = await app.client("third")
    assert (await third.http.post("/batches", json={"jobs": [noop] * 3})).status_code == 202
