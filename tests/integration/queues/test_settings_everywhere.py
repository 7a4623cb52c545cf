"""A setting holds at once in the process that confirmed it, and within half a second in every other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.errors import Unauthenticated
from accepted.services import keys
from accepted.services.job_types.cache import MAX_AGE_WATCHED
from accepted.storage import job_types, tenants
from accepted.storage.db.engine import transaction
from tests.support.clients.client import Client, Event, read_events
from tests.support.ledger.sql import do, rows
from tests.support.service.in_process_worker import HANDLERS
from tests.support.service.live_api import EVERY_SCOPE, Api, api
from tests.support.waiting import until

BUSY = MAX_AGE_WATCHED - 1
"""Seconds that half a second may take on a busy machine. A process that is told of nothing believes longer what it
knows."""


class Pair(NamedTuple):
    """Two API processes, so to speak, on one ledger, and a client of each."""

    one: Api
    client: Client
    other: Client


@pytest.fixture
async def pair(engine: AsyncEngine, database_url: str) -> AsyncIterator[Pair]:
    async with transaction(engine) as conn:
        await job_types.register(conn, [handler.type for handler in HANDLERS.values()])
        await conn.commit()
    async with api(database_url) as one, api(database_url) as other:
        yield Pair(one, await one.client(), await other.client())


def job(**fields: object) -> dict[str, object]:
    return {"type": "noop", "queue": "q", "delay": 60, **fields}


async def status(client: Client, **fields: object) -> int:
    return (await client.post(job(**fields))).status_code


async def test_a_depth_holds_where_it_was_confirmed_from_then_on(pair: Pair) -> None:
    assert await status(pair.client) == 202
    for _ in range(20):
        for depth, wanted in ((1, 429), (None, 202)):
            answer = await pair.client.http.patch("/queues/q", json={"max_depth": depth})
            assert answer.json()["max_depth"] == depth
            assert await status(pair.client) == wanted


async def test_a_type_holds_where_it_was_confirmed_from_then_on(pair: Pair) -> None:
    for number in range(10):
        schema = {"required": ["n"]} if number % 2 else {}
        await put_type(pair.client, schema, queue=f"q{number}")
        answer = await pair.client.post({"type": "theirs", "payload": {"n": 1}, "delay": 60})
        assert (answer.status_code, answer.json()["queue"]) == (202, f"q{number}")
        answer = await pair.client.post({"type": "theirs", "delay": 60})
        assert answer.status_code == (422 if number % 2 else 202)


async def test_depths_hold_elsewhere(pair: Pair) -> None:
    assert await status(pair.other) == 202
    for depth, wanted in ((1, 429), (None, 202), (1, 429)):
        await pair.client.http.patch("/queues/q", json={"max_depth": depth})
        await holds(lambda wanted=wanted: is_(status(pair.other), wanted))


async def test_quotas_hold_elsewhere(engine: AsyncEngine, pair: Pair) -> None:
    assert await status(pair.other) == 202
    for jobs, wanted in ((1, 429), (None, 202), (2, 429)):
        async with transaction(engine) as conn:
            if jobs is None:
                await tenants.remove_quota(conn, "acme")
            else:
                await tenants.put_quota(conn, "acme", jobs, 3600.0)
            await conn.commit()
        await holds(lambda wanted=wanted: is_(status(pair.other), wanted))


async def test_types_hold_elsewhere(pair: Pair) -> None:
    await put_type(pair.client, {})
    await holds(lambda: is_(status(pair.other, type="theirs"), 202))
    await put_type(pair.client, {"required": ["n"]})
    await holds(lambda: is_(status(pair.other, type="theirs"), 422))


async def test_keys_hold_everywhere(engine: AsyncEngine, pair: Pair) -> None:
    key_id, key = await keys.create(engine, "acme", "n", EVERY_SCOPE)
    bearer = {"authorization": f"Bearer {key}"}

    async def answers(wanted: int) -> bool:
        found = [(await client.get("/jobs", headers=bearer)).status_code for client in (pair.client, pair.other)]
        return found == [wanted, wanted]

    assert await answers(200)
    async with transaction(engine) as conn:
        await tenants.revoke_key(conn, key_id)
        await conn.commit()
    await holds(lambda: answers(401))


async def test_what_waits_ends_when_its_key_is_revoked(engine: AsyncEngine, pair: Pair) -> None:
    key_id, key = await keys.create(engine, "acme", "n", EVERY_SCOPE)
    bearer = {"authorization": f"Bearer {key}"}
    later = await pair.client.submit(queue="r", delay=60)
    watching = asyncio.create_task(pair.other.get(f"/jobs/{later['id']}?wait=20", headers=bearer))
    leasing = asyncio.create_task(pair.other.http.post("/queues/q/lease", json={"wait": 20}, headers=bearer))
    streaming = asyncio.create_task(events(pair.other, later["id"], bearer))
    await until(lambda: has(engine, "SELECT 1 FROM workers WHERE tenant = 'acme'"), 10, "the lease request to wait")
    async with transaction(engine) as conn:
        await tenants.revoke_key(conn, key_id)
        await conn.commit()
    await holds(lambda: is_(all_done(watching, leasing, streaming), True))
    assert [answer.result().status_code for answer in (watching, leasing)] == [401, 401]
    assert [event["event"] for event in streaming.result()] == ["status", "problem"]
    ready = await pair.client.submit(queue="q")
    lease = await pair.other.http.post("/queues/q/lease", json={"wait": 20})
    assert [item["job"]["attempt"] for item in lease.json()["items"]] == [1], "nobody else has leased it"
    assert lease.json()["items"][0]["job"]["id"] == ready["id"]


async def test_a_lost_notification_costs_one_poll(engine: AsyncEngine, pair: Pair) -> None:
    """SQL by hand notifies nobody."""
    key_id, key = await keys.create(engine, "acme", "n", EVERY_SCOPE)
    bearer = {"authorization": f"Bearer {key}"}
    await put_type(pair.client, {})
    await holds(lambda: is_(status(pair.other, type="theirs"), 202))
    assert (await pair.other.get("/jobs", headers=bearer)).status_code == 200

    await do(engine, "UPDATE queues SET max_depth = 1 WHERE name = 'q'")
    await do(engine, "UPDATE job_types SET payload_schema = '{\"required\": [\"n\"]}' WHERE name = 'theirs'")
    await do(engine, "UPDATE api_keys SET revoked_at = now() WHERE id = :id", id=key_id)

    await asyncio.gather(
        holds(lambda: is_(status(pair.other), 429)),
        holds(lambda: is_(status(pair.other, type="theirs", queue="r"), 422)),
        holds(lambda: is_(read_jobs(pair.other, bearer), 401)),
    )


async def test_a_key_that_is_looked_up_while_it_is_revoked_is_looked_up_again(engine: AsyncEngine) -> None:
    """The look-up may have begun before the COMMIT: what it found is not kept."""
    key_id, key = await keys.create(engine, "acme", "n", EVERY_SCOPE)
    cache = keys.ApiKeyCache(engine)
    looking_up = asyncio.create_task(cache.principal(key.encode()))
    await asyncio.sleep(0)
    async with transaction(engine) as conn:
        await tenants.revoke_key(conn, key_id)
        await conn.commit()
    cache.forget()
    await looking_up
    assert await cache.principal(key.encode()) is None


async def test_what_takes_its_time_to_end_does_not_keep_others_from_ending(engine: AsyncEngine) -> None:
    """Another key is revoked while it does."""
    cache = keys.ApiKeyCache(engine)
    made = [await keys.create(engine, "acme", "n", EVERY_SCOPE) for _ in range(2)]
    ending, may_end = asyncio.Event(), asyncio.Event()

    async def wait_under(key: str) -> None:
        async with cache.unless_revoked(keys.hash_key(key.encode())):
            try:
                await asyncio.Event().wait()
            finally:
                ending.set()
                await may_end.wait()

    running = asyncio.create_task(cache.run())
    waits = [asyncio.create_task(wait_under(key)) for _, key in made]
    for key_id, _ in made:
        async with transaction(engine) as conn:
            await tenants.revoke_key(conn, key_id)
            await conn.commit()
        cache.forget()
        await ending.wait()
        ending.clear()
    may_end.set()
    ends = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(end) for end in ends] == [Unauthenticated] * 2
    assert not running.done()
    running.cancel()


async def all_done(*tasks: "asyncio.Task[Any]") -> bool:
    return all(task.done() for task in tasks)


async def put_type(client: Client, schema: dict[str, object], queue: str = "q") -> None:
    answer = await client.http.put("/job-types/theirs", json={"payload_schema": schema, "queue": queue})
    assert answer.status_code in (200, 201), answer.text


async def events(client: Client, id: str, headers: dict[str, str]) -> list[Event]:
    async with client.http.stream("GET", f"/jobs/{id}/events", headers=headers) as answer:
        return [event async for event in read_events(answer.aiter_lines())]


async def read_jobs(client: Client, headers: dict[str, str]) -> int:
    return (await client.get("/jobs", headers=headers)).status_code


async def has(engine: AsyncEngine, sql: str) -> bool:
    return bool(await rows(engine, sql))


async def is_(answer: Awaitable[int], wanted: int) -> bool:
    return await answer == wanted


async def holds(check: Callable[[], Awaitable[bool]]) -> None:
    """Half a second from now, or some more on a busy machine."""
    await until(check, BUSY, "the setting to hold")
