"""The ledger goes away while clients watch a job: streams stay open, new ones wait, and waits go on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain import transitions
from accepted.domain.ids import new_id
from accepted.storage import job_types
from accepted.storage.db.engine import transaction
from tests.support.clients.client import Client, Event, read_events
from tests.support.ledger.jobs import apply, claim, put, running_attempt
from tests.support.ledger.sql import rows
from tests.support.servers.proxy import Proxy
from tests.support.service.in_process_worker import HANDLERS
from tests.support.service.live_api import Api, api
from tests.support.waiting import until

PROMISED = 5.0


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
async def service(proxy: Proxy, database_url: str) -> AsyncIterator[Api]:
    async with api(proxy.url_for(database_url)) as service:
        yield service


@pytest.fixture
async def client(service: Api) -> Client:
    return await service.client("t")


@asynccontextmanager
async def opened_meanwhile(client: Client, job_id: object, last: str = "") -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a stream that begins without the ledger: 200 and a comment, in time."""
    headers = {"last-event-id": last} if last else {}
    async with client.http.stream("GET", f"/jobs/{job_id}/events", headers=headers, timeout=30) as answer:
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        async with asyncio.timeout(PROMISED + 1):
            assert (await anext(lines)).startswith(":")
        yield lines


async def rest_of(lines: AsyncIterator[str]) -> list[Event]:
    async with asyncio.timeout(30):
        return [event async for event in read_events(lines)]


async def test_a_stream_stays_open_and_goes_on_where_it_was(engine: AsyncEngine, client: Client, proxy: Proxy) -> None:
    (job_id,) = await put(engine)
    (claimed,) = await claim(engine, 1)
    async with client.http.stream("GET", f"/jobs/{job_id}/events", timeout=60) as answer:
        lines = answer.aiter_lines()
        events = read_events(lines)
        before = [await anext(events), await anext(events)]
        proxy.refuse()
        async with opened_meanwhile(client, job_id, before[0]["id"]) as new:
            for _ in range(3):  # seconds
                assert (await anext(new)) in ("", ": waiting")
            await apply(engine, transitions.succeeded(running_attempt(claimed), "{}"))
            await proxy.heal()
            after = [event async for event in events]
            assert [*before[1:], *after] == await rest_of(new)
    assert [json.loads(event["data"])["status"] for event in (*before, *after)] == ["queued", "running", "succeeded"]


async def test_a_new_stream_says_later_what_is_wrong(engine: AsyncEngine, service: Api, proxy: Proxy) -> None:
    client, stranger, writer = [
        await service.client("t"), await service.client("t"), await service.client("t", ["jobs:write"])
    ]  # fmt: skip
    stranger.http.headers["authorization"] = "Bearer acc_unknown"
    (job_id,) = await put(engine)
    (claimed,) = await claim(engine, 1)
    await apply(engine, transitions.succeeded(running_attempt(claimed), "{}"))
    last = (await client.all_events(str(job_id)))[-1]["id"]
    proxy.refuse()
    async with (
        opened_meanwhile(client, new_id()) as unknown,
        opened_meanwhile(stranger, job_id) as refused,
        opened_meanwhile(writer, job_id) as forbidden,
        opened_meanwhile(client, job_id, last) as told_already,
    ):
        await proxy.heal()
        for lines, status in ((unknown, 404), (refused, 401), (forbidden, 403)):
            (event,) = await rest_of(lines)
            assert event["event"] == "problem"
            assert json.loads(event["data"])["status"] == status
        assert await rest_of(told_already) == []


async def test_a_long_poll_goes_on(engine: AsyncEngine, service: Api, client: Client, proxy: Proxy) -> None:
    (job_id,) = await put(engine)
    (claimed,) = await claim(engine, 1)
    ends_meanwhile, goes_on = [
        asyncio.create_task(client.get(f"/jobs/{job_id}?wait={seconds}", timeout=60)) for seconds in (2, 40)
    ]
    await until(lambda: len(service.state.watcher._waiters.get(job_id, ())) == 2, 10, "both wait", interval=0.01)
    proxy.refuse()
    await apply(engine, transitions.succeeded(running_attempt(claimed), "{}"))
    assert (await ends_meanwhile).status_code == 503
    assert not goes_on.done()
    await proxy.heal()
    answer = await goes_on
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


async def test_an_accepted_job_stays_accepted(engine: AsyncEngine, client: Client, proxy: Proxy) -> None:
    """`Prefer: wait` cannot see the end, but the job is committed: 202."""
    async with transaction(engine) as conn:
        await job_types.register(conn, [HANDLERS["noop"].type])
        await conn.commit()
    submitted = asyncio.create_task(client.post({"type": "noop", "delay": 60}, prefer="wait=3"))
    await until(lambda: rows(engine, "SELECT 1 FROM jobs"), 10, "the job is committed", interval=0.01)
    proxy.refuse()
    answer = await submitted
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=3")
