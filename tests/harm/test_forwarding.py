"""A forwarder dies between two of its steps, or the service is away: no job is lost, and none is made twice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import accepted.outbox
from accepted.forwarding import forwarder, rows
from accepted.forwarding.forwarder import Forwarder
from tests.support.ledger.sql import rows as found_in
from tests.support.servers.ports import free_port
from tests.support.service.http_app import http_app
from tests.support.service.in_process_worker import registered
from tests.support.service.live_api import api
from tests.support.service.processes import StartService
from tests.support.waiting import until

DAY = 86_400.0


class Failing(httpx.AsyncBaseTransport):
    """Raises once, before or after the service has answered the request."""

    def __init__(self, service: httpx.AsyncBaseTransport, error: BaseException, *, sent: bool) -> None:
        self._service, self._error, self._sent = service, error, sent

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._service.handle_async_request(request) if self._sent else None
        error, self._error = self._error, None  # type: ignore[assignment]
        if error is not None:
            raise error
        return answer or await self._service.handle_async_request(request)


@pytest.mark.fault("F99", moment="before the request; after it; its answer lost; the service away")
@pytest.mark.parametrize(
    ("error", "sent", "tried"),
    [
        (asyncio.CancelledError(), False, True),
        (asyncio.CancelledError(), True, True),
        (httpx.ReadTimeout(""), True, True),
        (httpx.ConnectError(""), False, False),
    ],
    ids=["killed-before-the-request", "killed-before-the-delete", "answer-lost", "service-away"],
)
async def test_one_job_whatever_dies(
    engine: AsyncEngine, database_url: str, empty_database_url: str, error: BaseException, sent: bool, tried: bool
) -> None:
    async with http_app(engine, database_url) as app:
        client = await app.client()
        conn = await rows.connect(empty_database_url)
        await conn.execute(accepted.outbox.TABLE)
        async with conn.transaction():
            await accepted.outbox.submit(conn, "noop")
        service: Any = client.http._transport
        async with httpx.AsyncClient(
            transport=Failing(service, error, sent=sent), base_url="http://api", headers=client.http.headers
        ) as failing:
            with contextlib.suppress(asyncio.CancelledError):
                assert await Forwarder(empty_database_url, failing, DAY).run_once(conn) == 0
        (row,) = await conn.fetch("SELECT tried_at IS NOT NULL AS tried, due_at > now() AS held FROM accepted_outbox")
        assert dict(row) == {"tried": tried, "held": True}, "only a request that may have left uses up its key"
        assert len(await found_in(engine, "SELECT 1 FROM jobs")) == sent
        await conn.execute("UPDATE accepted_outbox SET due_at = now()")
        assert await Forwarder(empty_database_url, client.http, DAY).run_once(conn) == 1
        assert await conn.fetchval("SELECT count(*) FROM accepted_outbox") == 0
        assert len(await found_in(engine, "SELECT 1 FROM jobs")) == 1
        await conn.close()


@pytest.mark.fault("F99", moment="an answer that does not end")
async def test_an_answer_without_an_end_holds_up_no_other(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No silence in it is long. Its job may be there, so the row keeps its key."""
    monkeypatch.setattr(forwarder, "SENT_WITHIN", 2.0)
    conn = await rows.connect(empty_database_url)
    await conn.execute(accepted.outbox.TABLE)
    async with conn.transaction():
        endless = await accepted.outbox.submit(conn, "noop", {"endless": True})
        await accepted.outbox.submit(conn, "noop")

    def answer(request: httpx.Request) -> httpx.Response:
        made = {"json": {"id": "j", "links": {}}}
        return httpx.Response(202, **({"content": dripping()} if b"endless" in request.content else made))  # type: ignore[arg-type]

    page = httpx.MockTransport(answer)
    async with asyncio.timeout(60), httpx.AsyncClient(transport=page, base_url="http://page") as client:
        assert await Forwarder(empty_database_url, client, DAY).run_once(conn) == 1
    kept = await conn.fetchrow("SELECT id, tried_at IS NOT NULL AS tried FROM accepted_outbox")
    assert dict(kept or {}) == {"id": endless, "tried": True}
    await conn.close()


async def dripping() -> AsyncIterator[bytes]:
    """Spaces, for ever."""
    while True:
        yield b" "
        await asyncio.sleep(0.05)


@pytest.mark.fault("F99", moment="under load: killed (-9) twice, then two of them; told to stop")
async def test_forwarders_killed_under_load(
    engine: AsyncEngine, database_url: str, empty_database_url: str, start_service: StartService
) -> None:
    """Three processes, of which one lives on: as many jobs as rows, and none left."""
    await registered(engine)
    conn = await rows.connect(empty_database_url)
    await conn.execute(accepted.outbox.TABLE)
    async with conn.transaction():
        for number in range(300):
            await accepted.outbox.submit(conn, "noop", {"n": number})
    async with api(database_url, auth="off") as service, httpx.AsyncClient(trust_env=False) as http:
        port = free_port()
        arguments = ["forward", "--database-url", empty_database_url, "--url", service.url]
        for _ in range(2):
            before = await left(conn)
            one = start_service(*arguments)
            await until(lambda before=before: fewer(conn, before), 20, one.log)
            one.kill()
        assert await left(conn) > 0, "they were killed with rows left"
        await conn.execute("UPDATE accepted_outbox SET due_at = now()")
        two = [start_service(*arguments, "--metrics-port", str(port)), start_service(*arguments)]
        await until(lambda: emptied(conn), 20, two[0].log)
        assert [await one.terminate() for one in two[1:]] == [0]
        page = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
        assert "accepted_forward_backlog " in page
        assert "accepted_forward_stopped 0.0" in page
    jobs = await found_in(engine, "SELECT payload ->> 'n' AS n FROM jobs")
    assert sorted(int(job["n"]) for job in jobs) == list(range(300))
    await conn.close()


async def left(conn: rows.Outbox) -> int:
    return int(await conn.fetchval("SELECT count(*) FROM accepted_outbox"))


async def fewer(conn: rows.Outbox, than: int) -> bool:
    return await left(conn) < than


async def emptied(conn: rows.Outbox) -> bool:
    return await left(conn) == 0
