"""A tenant's quota over HTTP: so many jobs in a time, exact with any number of API processes."""

import asyncio
import re

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.tenants import TenantQuota
from tests.support.clients.client import Client, check_problem
from tests.support.ledger.sql import do, rows
from tests.support.service.http_app import HttpApp, allow, http_app, statuses


async def submit(client: Client, count: int) -> list[httpx.Response]:
    return await asyncio.gather(*(client.post({"type": "noop"}) for _ in range(count)))


async def test_as_many_as_the_quota_are_accepted(app: HttpApp, client: Client) -> None:
    await allow(app, 5)
    answers = await submit(client, 12)
    assert statuses(answers) == {202: 5, 429: 7}
    assert len(await rows(app.engine, "SELECT 1 FROM jobs")) == 5
    refused = next(answer for answer in answers if answer.status_code == 429)
    problem = check_problem(refused, 429)
    assert problem["type"] == "/problems/quota-exceeded"
    assert "5 jobs in 3600 s" in problem["detail"]
    assert 700 < int(refused.headers["retry-after"]) <= 720, "one comes back every 720 s"


async def test_every_answer_says_what_is_left(app: HttpApp, client: Client) -> None:
    await allow(app, 3, 60.0)
    for left in (2, 1, 0):
        (answer,) = await submit(client, 1)
        assert answer.headers["ratelimit-policy"] == '"jobs";q=3;w=60'
        assert re.fullmatch(rf'"jobs";r={left};t=(20|19)', answer.headers["ratelimit"])
    (answer,) = await submit(client, 1)
    assert answer.status_code == 429
    assert re.fullmatch(r'"jobs";r=0;t=(20|19)', answer.headers["ratelimit"])
    assert answer.headers["ratelimit-policy"] == '"jobs";q=3;w=60'


async def test_it_comes_back_evenly(app: HttpApp, client: Client) -> None:
    await allow(app, 6, 60.0)
    assert statuses(await submit(client, 7)) == {202: 6, 429: 1}
    await do(app.engine, "UPDATE quotas SET counted_at = counted_at - interval '25 seconds'")
    assert statuses(await submit(client, 4)) == {202: 2, 429: 2}
    assert statuses(await submit(client, 2)) == {429: 2}, "a time that has passed counts once"
    await do(app.engine, "UPDATE quotas SET counted_at = counted_at - interval '1 day'")
    assert statuses(await submit(client, 8)) == {202: 6, 429: 2}, "and no more than the quota at once"


async def test_it_is_exact_over_several_processes(app: HttpApp, engine: AsyncEngine, database_url: str) -> None:
    await allow(app, 40)
    async with http_app(engine, database_url) as second, http_app(engine, database_url) as third:
        clients = []
        for each in (app, second, third):
            await each.state.limits.refresh()
            clients.append(await each.client())
        found = await asyncio.gather(*(submit(client, 30) for client in clients))
    assert statuses([answer for answers in found for answer in answers]) == {202: 40, 429: 50}
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 40


async def test_others_are_not_concerned(app: HttpApp, client: Client) -> None:
    await allow(app, 1)
    other = await app.client("other")
    answers = await submit(other, 5)
    assert statuses(answers) == {202: 5}
    assert all("ratelimit" not in answer.headers for answer in answers)


async def test_a_replay_is_answered_and_does_not_count(app: HttpApp, client: Client) -> None:
    await allow(app, 2)
    first = await client.post({"type": "noop"}, idempotency_key="k")
    for _ in range(5):
        again = await client.post({"type": "noop"}, idempotency_key="k")
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    check_problem(await client.post({"type": "noop", "priority": 1}, idempotency_key="k"), 422)
    assert statuses(await submit(client, 2)) == {202: 1, 429: 1}
    assert (await client.post({"type": "noop"}, idempotency_key="k")).status_code == 202


async def test_one_key_sent_many_times_at_once_counts_once(app: HttpApp, client: Client) -> None:
    await allow(app, 20)
    answers = await asyncio.gather(*(client.post({"type": "noop"}, idempotency_key="k") for _ in range(10)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert statuses(await submit(client, 20)) == {202: 19, 429: 1}


async def test_many_bodies_under_one_key_at_once_count_once(app: HttpApp, client: Client) -> None:
    await allow(app, 20)
    answers = await asyncio.gather(
        *(client.post({"type": "noop", "priority": each}, idempotency_key="k") for each in range(10))
    )
    assert statuses(list(answers)) == {202: 1, 422: 9}
    (row,) = await rows(app.engine, "SELECT used FROM quotas")
    assert row["used"] == pytest.approx(1, abs=0.1)


async def test_a_refused_request_leaves_no_record(app: HttpApp, client: Client) -> None:
    await allow(app, 1)
    await submit(client, 1)
    check_problem(await client.post({"type": "noop"}, idempotency_key="k"), 429)
    assert await rows(app.engine, "SELECT 1 FROM idempotency_keys") == []
    await allow(app, 100)
    assert "idempotent-replayed" not in (await client.post({"type": "noop"}, idempotency_key="k")).headers
    check_problem(await client.post({"type": "nop"}), 422)
    (row,) = await rows(app.engine, "SELECT used FROM quotas")
    assert row["used"] == pytest.approx(2, abs=0.01), "what is no job does not count"


async def test_a_batch_passes_whole_or_not_at_all(app: HttpApp, client: Client) -> None:
    await allow(app, 10)
    six = {"jobs": [{"type": "noop"}] * 6}
    first = await client.http.post("/batches", json=six, headers={"idempotency-key": "k"})
    assert (first.status_code, first.headers["ratelimit"][:10]) == (202, '"jobs";r=4')
    assert check_problem(await client.http.post("/batches", json=six), 429)["type"] == "/problems/quota-exceeded"
    assert len(await rows(app.engine, "SELECT 1 FROM jobs")) == 6
    again = await client.http.post("/batches", json=six, headers={"idempotency-key": "k"})
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert statuses(await submit(client, 5)) == {202: 4, 429: 1}
    eleven = await client.http.post("/batches", json={"jobs": [{"type": "noop"}] * 11})
    check_problem(eleven, 422, "", "the tenant's quota never allows more than 10 jobs at once, and these are 11")


async def test_a_quota_that_is_taken_away(app: HttpApp, client: Client) -> None:
    await allow(app, 1)
    assert statuses(await submit(client, 2)) == {202: 1, 429: 1}
    await do(app.engine, "DELETE FROM quotas")
    assert statuses(await submit(client, 2)) == {202: 2}, "before the app has noticed"
    await app.state.limits.refresh()
    assert statuses(await submit(client, 2)) == {202: 2}


def test_a_standing() -> None:
    assert (TenantQuota(10, 60.0, 0.0).remaining, TenantQuota(10, 60.0, 9.5).remaining) == (10, 0)
    assert TenantQuota(10, 60.0, 9.5).next_in == pytest.approx(3)
    assert TenantQuota(10, 60.0, 8.0).wait_for(5) == pytest.approx(18)
    assert TenantQuota(10, 60.0, 10.0).wait_for(500) == pytest.approx(60), "as many as can pass at once"
