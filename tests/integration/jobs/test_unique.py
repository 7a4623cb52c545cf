"""`unique`: one job of a key at a time, through HTTP, over two API processes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.ids import BEFORE_ALL, new_id
from accepted.domain.job import Unique
from accepted.storage import job_types, pruning
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import uniqueness
from accepted.storage.jobs.uniqueness import UniqueKey
from tests.support.clients.client import Client, check_problem
from tests.support.clients.lease_client import one_lease, register, say
from tests.support.service.in_process_worker import HANDLERS
from tests.support.service.live_api import Api, api
from tests.support.waiting import until


@pytest.fixture(params=["postgres", "rabbitmq"])
async def apis(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[list[Api]]:
    broker_url = "postgres" if request.param == "postgres" else request.getfixturevalue("amqp_url")
    async with api(database_url, broker_url) as one, api(database_url, broker_url) as other:
        async with transaction(one.state.engine) as conn:
            await job_types.register(conn, [HANDLERS["noop"].type])
            await conn.commit()
        yield [one, other]


@pytest.fixture
async def client(apis: list[Api]) -> Client:
    client = await apis[0].client()
    await register(client)
    return client


async def post(client: Client, key: str, stop: str = "finished", **more: Any) -> httpx.Response:
    headers = {"idempotency_key": more.pop("idempotency_key")} if "idempotency_key" in more else {}
    body = {"type": "node.echo", "unique": {"key": key, "until": stop}, **more}
    return await client.post(body, **headers)


def is_new(answer: httpx.Response) -> bool:
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (answer.status_code, job.get("duplicate")) in ((202, None), (200, True)), answer.text
    return answer.status_code == 202


async def test_a_hundred_at_once_over_two_processes_make_one(apis: list[Api], client: Client) -> None:
    callers = [client, await apis[1].client()]
    answers = await asyncio.gather(*(post(callers[n % 2], "k", payload={"n": n}) for n in range(100)))
    told = [answer for answer in answers if answer.status_code != 503]  # on a machine that is too busy to answer
    assert sum(map(is_new, told)) == 1 or len(told) < len(answers)
    assert len({answer.json()["id"] for answer in told}) == 1
    assert len((await client.get("/jobs")).json()["items"]) == 1


async def test_until_finished(apis: list[Api], client: Client) -> None:
    first = await post(client, "k")
    assert is_new(first)
    item = await one_lease(client)
    again = await post(client, "k", payload={"other": True}, queue="elsewhere")
    assert not is_new(again)
    assert (again.json()["id"], again.json()["status"]) == (first.json()["id"], "running")
    await say(client, item, "fail", **{"class": "transient"})
    assert not is_new(await post(client, "k")), "it will run again"
    await client.http.post(f"/jobs/{first.json()['id']}/cancel")
    assert is_new(await post(client, "k"))
    assert not is_new(await post(client, "k"))


async def test_until_started(apis: list[Api], client: Client) -> None:
    first = await post(client, "k", "started")
    assert not is_new(await post(client, "k", "finished"))
    item = await one_lease(client)
    assert item["job"]["id"] == first.json()["id"]
    second = await post(client, "k", "started")
    assert is_new(second), "the first has started"
    assert not is_new(await post(client, "k", "started"))
    await client.http.post(f"/jobs/{second.json()['id']}/cancel")
    assert is_new(await post(client, "k", "started")), "ended without a start"


async def test_keys_are_of_their_tenant(apis: list[Api], client: Client) -> None:
    assert is_new(await post(client, "k"))
    globex = await apis[1].client("globex")
    await register(globex)
    assert is_new(await post(globex, "k"))
    assert is_new(await post(client, "another"))
    assert (await client.post({"type": "noop"})).status_code == 202


async def test_with_an_idempotency_key_a_replay_is_answered_as_before(apis: list[Api], client: Client) -> None:
    first = await post(client, "k", idempotency_key="one")
    double = await post(client, "k", idempotency_key="two")
    assert is_new(first)
    assert not is_new(double)
    await client.http.post(f"/jobs/{first.json()['id']}/cancel")
    for number, key in enumerate(("one", "two")):
        replay = await post(await apis[number].client(), "k", idempotency_key=key)
        assert replay.headers["idempotent-replayed"] == "true"
        assert (replay.json()["id"], is_new(replay)) == (first.json()["id"], key == "one")
    check_problem(await post(client, "k", idempotency_key="two", payload={"n": 1}), 422)
    assert is_new(await post(client, "k", idempotency_key="three")), "replays have taken nothing"


async def test_many_of_one_idempotency_key_and_one_unique_key(apis: list[Api], client: Client) -> None:
    callers = [client, await apis[1].client()]
    sent = [(callers[n % 2], str(n % 5)) for n in range(60)]
    answers = await asyncio.gather(*(post(who, "k", idempotency_key=key) for who, key in sent))
    told = [(answer, key) for answer, (_, key) in zip(answers, sent, strict=True) if answer.status_code != 503]
    assert len({answer.json()["id"] for answer, _ in told}) == 1
    by_key = {key: {is_new(answer) for answer, k in told if k == key} for _, key in told}
    assert all(len(each) == 1 for each in by_key.values()), "each key has one answer"
    assert sum(map(any, by_key.values())) == 1 or len(told) < len(answers)


async def test_with_an_ordering_key_too(apis: list[Api], client: Client) -> None:
    assert (await post(client, "a", ordering_key="o")).json()["status"] in ("queued", "scheduled")
    assert not is_new(await post(client, "a", ordering_key="o"))
    behind = await post(client, "b", ordering_key="o")
    assert (is_new(behind), behind.json()["status"]) == (True, "blocked")


async def test_what_is_refused(apis: list[Api], client: Client) -> None:
    for wrong, pointer in (
        ({"key": "k"}, "/unique/until"),
        ({"key": "k", "until": "later"}, "/unique/until"),
        ({"key": "", "until": "started"}, "/unique/key"),
        ({"key": "k" * 256, "until": "started"}, "/unique/key"),
        ({"key": "k", "until": "started", "untill": 1}, "/unique/untill"),
    ):
        check_problem(await client.post({"type": "noop", "unique": wrong}), 422, pointer)
    body = {"type": "noop", "unique": {"key": "k", "until": "started"}}
    check_problem(await client.http.post("/batches", json={"jobs": [body]}), 422, "/jobs/0/unique")


async def test_a_key_goes_with_its_job_when_that_is_pruned(apis: list[Api], client: Client) -> None:
    job = (await post(client, "k")).json()
    await client.http.post(f"/jobs/{job['id']}/cancel")
    engine = apis[0].state.engine
    await until(lambda: _pruned(engine), 10, "the job to be pruned")
    async with transaction(engine) as conn:
        assert (await conn.execute(text("SELECT count(*) FROM unique_keys"))).scalar() == 0
    assert is_new(await post(client, "k"))


async def _pruned(engine: AsyncEngine) -> int:
    async with transaction(engine) as conn:
        done = await pruning.prune_jobs(conn, 0, 0, datetime.now(UTC) + timedelta(seconds=5), BEFORE_ALL, 100)
        await conn.commit()
    return done.deleted


async def test_a_job_that_is_not_seen_yet_is_not_taken_over_from(engine: AsyncEngine) -> None:
    """Another transaction commits the job while we wait for the row: our statement sees the row, and not the job."""
    place, first, second = UniqueKey("t", "k"), new_id(), new_id()
    async with transaction(engine) as conn, transaction(engine) as late:
        assert await uniqueness.take(conn, {place: (first, Unique("k", "started"))}) == {first}
        taking = asyncio.create_task(uniqueness.take(late, {place: (second, Unique("k", "started"))}))
        await until(lambda: _somebody_waits(engine), 10, "the second to wait for the first")
        await conn.execute(_JOB, {"id": first})
        await conn.commit()
        assert await taking == set()
        assert await uniqueness.holders(late, [place]) == {place: first}


_JOB = text("""
INSERT INTO jobs (id, tenant, type, queue, status, priority, max_attempts, payload, run_at)
VALUES (:id, 't', 'noop', 'q', 'queued', 4, 5, '{}', now())
""")


async def _somebody_waits(engine: AsyncEngine) -> bool:
    async with transaction(engine) as conn:
        found = await conn.execute(text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
        return bool(found.scalar())
