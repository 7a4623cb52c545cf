"""Pages that are left open: what they hear, and what that costs the ledger."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.dashboard import calls, live
from accepted.dashboard.visit import LIVE, SESSION
from accepted.services import keys, sessions
from tests.support.clients.client import read_events
from tests.support.ledger.sql import do
from tests.support.service.live_api import Api, api
from tests.support.waiting import until

OPEN = 20

WATCHED = 10.0
"""Seconds in which statements are counted: those of the process without pages, and those of pages left open."""


@contextmanager
def asked(engine: AsyncEngine) -> Iterator[list[str]]:
    """The statements that the service sends, as it sends them."""
    found: list[str] = []

    def note(*arguments: object) -> None:
        found.append(str(arguments[2]))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    yield found
    event.remove(engine.sync_engine, "before_cursor_execute", note)


def cookie(one: Api, token: str) -> dict[str, str]:
    """That of a session at this port."""
    return {f"{SESSION}_{httpx.URL(one.url).port}": token}


@asynccontextmanager
async def page(one: Api, token: str, path: str = "/ui/events") -> AsyncIterator[list[str]]:
    """The events that an open page has heard so far; `end` once its stream has ended."""
    heard: list[str] = []

    async def listen(answer: httpx.Response) -> None:
        async for each in read_events(answer.aiter_lines()):
            heard.append(each["event"])
        heard.append("end")

    async with (
        httpx.AsyncClient(base_url=one.url, cookies=cookie(one, token), trust_env=False, timeout=30) as http,
        http.stream("GET", path) as answer,
    ):
        assert answer.status_code == 200
        listening = asyncio.create_task(listen(answer))
        yield heard
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


async def test_one_question_for_all_open_pages(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "EVERY", 0.1)
    async with api(database_url) as one, AsyncExitStack() as stack:
        state = one.state
        key_id, key = await keys.create(engine, "t", "Ann", ["jobs:read"])
        token = str(await sessions.begin(engine, state.keys, key))
        pages = [await stack.enter_async_context(page(one, token)) for _ in range(OPEN)]
        with asked(state.engine) as statements:

            def questions() -> int:
                return sum("AS figures" in one for one in statements)

            await until(lambda: questions() >= 3, 10, "three questions")
            begun, before = asyncio.get_running_loop().time(), questions()
            await do(engine, "INSERT INTO queues (name, limited, paused) VALUES ('q', true, true)")
            await until(lambda: all("state" in heard for heard in pages), 10, "each page heard it")
            assert questions() - before <= (asyncio.get_running_loop().time() - begun) / live.EVERY + 1
        assert {heard[0] for heard in pages} == {"state"}
        await keys.revoke(engine, key_id)
        await until(lambda: all(heard[-1] == "end" for heard in pages), 10, "the streams of the revoked key to end")


async def test_pages_left_open_cost_less_than_one_query_a_second(engine: AsyncEngine, database_url: str) -> None:
    """However many are open: they hear of a change in the same moment, and what they read again then is read once."""
    async with api(database_url) as one, AsyncExitStack() as stack:
        client = await one.client()
        await client.http.put("/job-types/here", json={"queue": "q"})
        jobs = [(await client.submit("here", delay=3600))["id"] for _ in range(10)]
        _, key = await keys.create(engine, "acme", "Ann", ["jobs:read"])
        token = str(await sessions.begin(engine, one.state.keys, key))
        with asked(one.state.engine) as statements:
            own = set(await of_some_seconds(statements))
            for path in ["/ui/events"] * OPEN + [f"/ui/events?job={job}" for job in jobs]:
                await stack.enter_async_context(page(one, token, path))
            await until(lambda: sum("AS figures" in one for one in statements) >= 2, 30, "all pages to listen")
            idle = [one for one in await of_some_seconds(statements) if one not in own]
        reader = httpx.AsyncClient(base_url=one.url, cookies=cookie(one, token), headers={LIVE: "1"}, timeout=30)
        http = await stack.enter_async_context(reader)
        with asked(one.state.engine) as statements:
            answers = await asyncio.gather(*(http.get("/") for _ in range(10)))
        assert {answer.status_code for answer in answers} == {200}
        read = [one for one in statements if one not in own]
        assert 0 < len(idle) < WATCHED, idle
        assert 0 < 1 / live.EVERY + len(read) / live.LEISURE < 1, read


async def of_some_seconds(statements: list[str]) -> list[str]:
    """What is asked from now on, in `WATCHED` seconds."""
    statements.clear()
    loop = asyncio.get_running_loop()
    end = loop.time() + WATCHED
    await until(lambda: loop.time() >= end, 2 * WATCHED, "the time to pass")
    return list(statements)


async def test_a_page_of_a_job_hears_of_it_alone(engine: AsyncEngine, database_url: str) -> None:
    async with api(database_url, auth="off") as one:
        client = await one.client()
        await client.http.put("/job-types/here", json={"queue": "q"})
        first, second = [await client.submit("here", delay=3600) for _ in range(2)]
        async with page(one, "x", f"/ui/events?job={first['id']}") as heard:
            await client.http.post(f"/jobs/{second['id']}/cancel")
            await client.http.post(f"/jobs/{first['id']}/cancel")
            await until(lambda: heard, 10, "what happens to the job")
            assert heard == ["state"]


async def test_the_stream_of_a_job_ends_with_its_row(engine: AsyncEngine, database_url: str) -> None:
    async with api(database_url, auth="off") as one:
        client = await one.client()
        await client.http.put("/job-types/here", json={"queue": "q"})
        job = (await client.submit("here", delay=3600))["id"]
        async with page(one, "x", f"/ui/events?job={job}") as heard:
            await do(engine, "DELETE FROM outbox")
            await do(engine, "DELETE FROM jobs")
            await until(lambda: heard[-1:] == ["end"], 20, "the stream of a job that was pruned to end")


async def test_shared_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SHARED_FOR", 0.05)
    shared, reads = calls.SharedAnswers(), itertools.count(200)

    async def read() -> calls.Answer:
        return calls.Answer(next(reads), b"")

    both = await asyncio.gather(shared.get(("path",), read), shared.get(("path",), read))
    assert [one.status for one in both] == [200, 200]
    await until(lambda: not shared._kept, 10, "nothing is kept")
    assert (await shared.get(("path",), read)).status == 201
