"""Long polls for leases: what they cost, how they end, and what happens to a lease that reaches no client."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from accepted.storage.db.engine import transaction
from tests.support.clients.client import Client, check_problem
from tests.support.clients.lease_client import Item, ask, lease, one_lease, register, say, service
from tests.support.servers.postgres import PostgresServer
from tests.support.service.live_api import Api
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


async def test_many_wait_at_the_cost_of_one(pg: Api) -> None:
    """Forty long polls: each job goes to one of them, and one claim serves all of them."""
    client = await pg.client()
    await register(client)
    asking = [asyncio.create_task(lease(client, most=2, wait=20)) for _ in range(40)]
    await until(lambda: _waiting(pg) == 40, 10, "forty to wait")
    (group,) = pg.state.lease_waiters._groups.values()
    claims = []
    group.notified.clear = lambda clear=group.notified.clear: (claims.append(1), clear())[1]  # type: ignore[method-assign]
    began = time.monotonic()
    await asyncio.sleep(2.2)  # the time over which claims are counted
    assert len(claims) <= time.monotonic() - began + 1
    jobs = {(await client.submit("node.echo"))["id"] for _ in range(30)}
    await until(lambda: sum(len(one.result()) for one in asking if one.done()) == 30, 10, "thirty leases")
    found = [item["job"]["id"] for one in asking if one.done() for item in one.result()]
    assert sorted(found) == sorted(jobs), "each once"
    pg.state.lease_waiters.close()
    assert [] in await asyncio.gather(*asking), "the others get nothing"


def _waiting(one: Api) -> int:
    return sum(group.wanted for group in one.state.lease_waiters._groups.values()) // 2


async def test_a_client_that_goes_away_leaves_nothing_behind(live: Api) -> None:
    client = await live.client()
    await register(client)
    asking = asyncio.create_task(lease(client, wait=30))
    await until(lambda: live.state.lease_waiters._groups, 10, "somebody to wait")
    asking.cancel()
    await asyncio.wait({asking})
    await until(
        lambda: not any(group.wanted for group in live.state.lease_waiters._groups.values()), 10, "nobody to wait"
    )
    job = await client.submit("node.echo")
    assert (await one_lease(client))["job"]["attempt"] == 1, "no other request took it"
    assert len(await client.attempts(job["id"])) == 1


async def test_a_lease_that_reaches_nobody_is_handed_back_unburned(pg: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await pg.client()
    await register(client)
    waiters, claimed, go_on = pg.state.lease_waiters, asyncio.Event(), asyncio.Event()
    plain = waiters._claim

    async def slowly(*arguments):  # type: ignore[no-untyped-def]
        given = await plain(*arguments)
        if given:
            claimed.set()
            await go_on.wait()
        return given

    monkeypatch.setattr(waiters, "_claim", slowly)
    job = await client.submit("node.echo")
    asking = asyncio.create_task(lease(client, wait=30))
    await claimed.wait()
    asking.cancel()
    await asyncio.wait({asking})
    await until(lambda: not any(group.wanted for group in waiters._groups.values()), 10, "nobody to wait")
    go_on.set()
    await client.until_status(job["id"], "queued", timeout=10)
    (attempt,) = await client.attempts(job["id"])
    assert (attempt["outcome"], (await client.job(job["id"]))["max_attempts"]) == ("handed_back", 6)
    assert (await one_lease(client))["job"]["attempt"] == 2


async def test_a_stop_ends_every_wait_at_once(database_url: str) -> None:
    async with service(database_url) as one:
        client = await one.client()
        await register(client)
        asking = [asyncio.create_task(lease(client, wait=60)) for _ in range(5)]
        await until(
            lambda: sum(group.wanted for group in one.state.lease_waiters._groups.values()) == 5, 10, "five to wait"
        )
        began = time.monotonic()
        one.stop()
        assert await asyncio.gather(*asking) == [[]] * 5
        assert time.monotonic() - began < 20


async def test_who_waits_is_known_to_the_ledger(pg: Api) -> None:
    """Limits count the slots of the workers of a queue, and `explain` says whether it has any."""
    client = await pg.client(name="laptop")
    await register(client)
    assert await lease(client, most=7, wait=0, types=["node.echo"]) == []
    async with transaction(pg.state.engine) as conn:
        (row,) = await conn.execute(text("SELECT name, slots, queues, types FROM workers"))
    assert tuple(row) == ("waiting lease:laptop", 7, ["node"], ["node.echo"])


async def test_the_ledger_is_away(database_url: str, postgres_server: PostgresServer) -> None:
    async with service(database_url, lease_ttl=30) as one:
        client: Client = await one.client()
        await register(client)
        await client.submit("node.echo")
        item = await one_lease(client)
        asking = asyncio.create_task(ask(client, "empty", wait=60))
        await until(
            lambda: any(group.wanted for group in one.state.lease_waiters._groups.values()), 10, "somebody to wait"
        )
        postgres_server.stop()
        try:
            began = time.monotonic()
            check_problem(await asking, 503)
            for answer in (await say(client, item, "complete"), await ask(client, wait=60)):
                check_problem(answer, 503)
                assert answer.headers["retry-after"]
            assert time.monotonic() - began < 15
        finally:
            postgres_server.start()
        answer = await until(lambda: _settled(client, item), 20, "the ledger to be back")
        assert answer["status"] == "succeeded"


async def _settled(client: Client, item: Item) -> dict[str, Any] | None:
    answer = await say(client, item, "complete")
    return answer.json() if answer.status_code == 200 else None
