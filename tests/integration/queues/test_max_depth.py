"""`max_depth` over HTTP: at the limit submissions to that queue are refused, and no others."""

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.storage import queue_load
from accepted.storage.db.statements import Connection
from tests.support.clients.client import Client, check_problem
from tests.support.ledger.jobs import claim
from tests.support.ledger.sql import rows
from tests.support.service.http_app import HttpApp, allow, http_app, statuses
from tests.support.waiting import until


@pytest.fixture
async def client(app: HttpApp) -> Client:
    """A client of an API with `max_depth` 5 on queue q."""
    client = await app.client()
    await client.http.patch("/queues/q", json={"max_depth": 5})
    await app.state.limits.refresh()
    return client


def job(**fields: object) -> dict[str, object]:
    return {"type": "noop", "queue": "q", **fields}


async def test_past_it_submissions_are_refused(engine: AsyncEngine, client: Client) -> None:
    """A waiting job counts, whatever it waits for."""
    answers = [await client.post(job(**fields)) for fields in ({}, {"delay": 60}, {}, {}, {}, {}, {"delay": 60})]
    assert [answer.status_code for answer in answers] == [202] * 5 + [429] * 2
    problem = check_problem(answers[5], 429)
    assert problem["type"] == "/problems/queue-full"
    assert "queue q takes no more than 5 waiting jobs" in problem["detail"]
    assert int(answers[5].headers["retry-after"]) >= 1
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 5


async def test_other_queues_are_not_concerned(client: Client) -> None:
    answers = [await client.post(job(queue="other")) for _ in range(8)]
    assert statuses(answers) == {202: 8}


async def test_at_once_no_more_pass_than_fit(engine: AsyncEngine, client: Client) -> None:
    answers = await asyncio.gather(*(client.post(job()) for _ in range(30)))
    assert statuses(list(answers)) == {202: 5, 429: 25}


async def test_room_is_used_when_there_is_some(engine: AsyncEngine, client: Client) -> None:
    for _ in range(5):
        await client.post(job())
    check_problem(await client.post(job()), 429)
    assert len(await claim(engine, 2)) == 2, "what runs does not wait"

    async def passes() -> bool:
        return (await client.post(job())).status_code == 202

    await until(passes, 5, "the room to be noticed without a look in the background")
    assert await passes()
    assert not await passes()


async def test_a_replay_is_answered(app: HttpApp, client: Client) -> None:
    first = await client.post(job(), idempotency_key="k")
    for _ in range(5):
        await client.post(job())
    again = await client.post(job(), idempotency_key="k")
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    check_problem(await client.post(job(), idempotency_key="new"), 429)
    assert len(await rows(app.engine, "SELECT 1 FROM idempotency_keys")) == 1, "a refusal leaves no record"


async def test_a_batch_fits_whole_or_not_at_all(engine: AsyncEngine, client: Client) -> None:
    three, other = {"jobs": [job()] * 3}, {"jobs": [job()] * 2 + [job(queue="other")] * 9}
    assert (await client.http.post("/batches", json=three)).status_code == 202
    check_problem(await client.http.post("/batches", json=three), 429)
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 3
    assert (await client.http.post("/batches", json=other)).status_code == 202
    check_problem(await client.post(job()), 429)


async def test_so_does_a_workflow(engine: AsyncEngine, client: Client) -> None:
    jobs = [job(ref=f"r{number}") for number in range(6)]
    too_many = await client.http.post("/workflows", json={"jobs": jobs})
    check_problem(too_many, 422, "", "never takes more than 5 waiting jobs of a tenant, and these are 6")
    assert (await client.http.post("/workflows", json={"jobs": jobs[:5]})).status_code == 202
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 5


async def test_a_batch_that_never_fits_is_wrong_and_not_early(app: HttpApp, client: Client) -> None:
    """Even if the queue is full, or the quota used up: to wait, as 429 asks, would never help."""
    await allow(app, 8)
    await asyncio.gather(*(client.post(job()) for _ in range(5)))
    check_problem(await client.post(job()), 429)
    lines = (b'{"type":"noop","queue":"q"}\n' * 6, b'{"type":"noop","queue":"other"}\n' * 9)
    for body in lines:
        answer = await client.http.post("/batches", content=body, headers={"content-type": "application/x-ndjson"})
        check_problem(answer, 422, "", "never")
    check_problem(await client.http.post("/batches", json={"jobs": [job()] * 5}), 429)
    (row,) = await rows(app.engine, "SELECT used FROM quotas")
    assert row["used"] == pytest.approx(5, abs=0.5), "a refused batch uses nothing up"


async def test_a_raised_limit_counts_all_that_waits(app: HttpApp, client: Client) -> None:
    """A count goes no further than the limit that it was made for."""
    await client.http.patch("/queues/q", json={"max_depth": None})
    await asyncio.gather(*(client.post(job()) for _ in range(9)))
    await client.http.patch("/queues/q", json={"max_depth": 2})
    check_problem(await client.post(job()), 429)
    await client.http.patch("/queues/q", json={"max_depth": 10})
    assert statuses([await client.post(job()) for _ in range(3)]) == {202: 1, 429: 2}


async def test_a_count_that_began_under_another_limit_is_void(
    app: HttpApp, client: Client, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count in the background sees two jobs; others come through another process before it is taken over."""
    await client.post(job())
    await client.post(job())
    counted, goes_on, depths = asyncio.Event(), asyncio.Event(), queue_load.depths

    async def counts_slowly(conn: Connection, queues: Sequence[str]) -> dict[tuple[str, str], int]:
        found = await depths(conn, queues)
        counted.set()
        await goes_on.wait()
        return found

    monkeypatch.setattr(queue_load, "depths", counts_slowly)
    counting = asyncio.create_task(app.state.limits._depths.count())
    await counted.wait()
    async with http_app(app.engine, database_url) as elsewhere:
        other = await elsewhere.client()
        assert [(await other.post(job())).status_code for _ in range(2)] == [202, 202]
    await client.http.patch("/queues/q", json={"max_depth": 4})
    await app.state.limits._copy.refresh()
    goes_on.set()
    await counting
    check_problem(await client.post(job()), 429)


async def test_a_limit_that_was_another_meanwhile_is_a_new_one(app: HttpApp, client: Client, database_url: str) -> None:
    """Under the other one, which this process never used, others let jobs pass that it has not counted."""
    await client.post(job())
    async with http_app(app.engine, database_url) as elsewhere:
        other = await elsewhere.client()
        await other.http.patch("/queues/q", json={"max_depth": 20})
        assert statuses([await other.post(job()) for _ in range(8)]) == {202: 8}
        await other.http.patch("/queues/q", json={"max_depth": 5})
    app.state.limits.forget()
    check_problem(await client.post(job()), 429)


async def test_a_full_queue_takes_nothing_of_the_quota(app: HttpApp, engine: AsyncEngine, client: Client) -> None:
    await allow(app, 100)
    await asyncio.gather(*(client.post(job()) for _ in range(9)))
    (row,) = await rows(engine, "SELECT used FROM quotas")
    assert row["used"] == pytest.approx(5, abs=0.5)


async def test_a_used_up_quota_takes_no_room(app: HttpApp, client: Client) -> None:
    await allow(app, 1)
    assert statuses([await client.post(job()) for _ in range(9)]) == {202: 1, 429: 8}
    await allow(app, 100)
    assert statuses([await client.post(job()) for _ in range(6)]) == {202: 4, 429: 2}


async def test_several_processes_notice_each_others(app: HttpApp, engine: AsyncEngine, database_url: str) -> None:
    async with http_app(engine, database_url) as second:
        one, two = await app.client(), await second.client()
        await one.http.patch("/queues/q", json={"max_depth": 5})
        await app.state.limits.refresh()
        for _ in range(5):
            await one.post(job())
        await second.state.limits.refresh()
        check_problem(await two.post(job()), 429)


async def test_a_limit_that_is_taken_away(app: HttpApp, client: Client) -> None:
    for _ in range(5):
        await client.post(job())
    check_problem(await client.post(job()), 429)
    await client.http.patch("/queues/q", json={"max_depth": None})
    await app.state.limits.refresh()
    assert statuses([await client.post(job()) for _ in range(3)]) == {202: 3}
