"""`accepted.outbox`: a job in the transaction of another database, which a forwarder submits."""

from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest

import accepted.outbox
from accepted.client.errors import ClientError
from accepted.forwarding import forwarder, process, rows
from accepted.forwarding.forwarder import Forwarder
from tests.support.ledger.callers import CALLERS, submitted
from tests.support.ledger.sql import rows as found_in
from tests.support.service.http_app import HttpApp

DAY = 86_400.0


@pytest.fixture
async def elsewhere(empty_database_url: str) -> str:
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute(accepted.outbox.TABLE)
    await connection.close()
    return empty_database_url


async def test_what_is_committed_is_submitted_once(app: HttpApp, elsewhere: str) -> None:
    """On every driver, by two forwarders at once."""
    ids = set()
    for number, caller in enumerate(CALLERS):
        async with caller(elsewhere) as conn:
            await submitted(conn, lambda conn: accepted.outbox.submit(conn, "noop", {"rolled": "back"}))
            await submitted(conn, lambda conn: conn.rollback())
            for _ in range(10):
                options: Any = {"run_at": datetime(2027, 1, 1, tzinfo=UTC), "ordering_key": f"k{number}"}
                submit = lambda conn, o=options: accepted.outbox.submit(conn, "noop", {"é:": 1}, **o)  # noqa: E731
                ids.add(await submitted(conn, submit))
            await submitted(conn, lambda conn: conn.commit())
    client = await app.client()
    conn, other = [await rows.connect(elsewhere) for _ in range(2)]
    both = [Forwarder(elsewhere, client.http, DAY) for _ in range(2)]
    assert (await rows.backlog(conn)).waiting == 10 * len(CALLERS) == len(ids)
    while await both[0].run_once(conn) + await both[1].run_once(other):
        pass
    assert (await rows.backlog(conn)) == (0, 0, 0.0)
    keys = {row["key"] for row in await found_in(app.engine, "SELECT key FROM idempotency_keys")}
    assert keys == set(map(str, ids))
    (job,) = await found_in(app.engine, "SELECT DISTINCT CAST(payload AS text) AS payload, tenant FROM jobs")
    assert dict(job) == {"payload": '{"é:":1}', "tenant": "t"}
    assert len(await found_in(app.engine, "SELECT 1 FROM jobs")) == len(ids)
    for one in (conn, other):
        await one.close()


async def test_what_the_service_refuses_is_stopped_and_told(app: HttpApp, elsewhere: str) -> None:
    """So is a job whose key may be forgotten. An old row that nobody has tried is submitted."""
    conn = await rows.connect(elsewhere)
    async with conn.transaction():
        await accepted.outbox.submit(conn, "nope")
        forgotten = await accepted.outbox.submit(conn, "noop", {"n": "forgotten"})
        await accepted.outbox.submit(conn, "noop", {"n": "late"})
    await conn.execute("UPDATE accepted_outbox SET created_at = now() - interval '2 days'")
    await conn.execute("UPDATE accepted_outbox SET tried_at = now() - interval '23.98 hours' WHERE id = $1", forgotten)
    client = await app.client()
    transport: Any = client.http._transport
    async with httpx.AsyncClient(transport=transport, base_url="http://api/wrong") as astray:
        assert await Forwarder(elsewhere, astray, DAY).run_once(conn) == 0
    assert await conn.fetchval("SELECT count(*) FROM accepted_outbox WHERE tried_at IS NULL AND stopped IS NULL") == 2
    await conn.execute("UPDATE accepted_outbox SET due_at = now() WHERE stopped IS NULL")
    assert await Forwarder(elsewhere, client.http, DAY).run_once(conn) == 1
    stopped = await conn.fetch("SELECT stopped FROM accepted_outbox ORDER BY stopped")
    assert [row["stopped"] for row in stopped] == ["key_expired", "refused with 422"]
    assert [row["payload"] for row in await found_in(app.engine, "SELECT payload FROM jobs")] == [{"n": "late"}]
    await Forwarder(elsewhere, client.http, DAY).run_once(conn)
    assert forwarder.STOPPED._value.get() == 2
    assert forwarder.WAITING._value.get() == 0
    await conn.close()


async def test_what_is_refused_may_be_mended_however_late(app: HttpApp, elsewhere: str) -> None:
    """The service has no record of a refused request. A forwarder that was late to stop the row leaves it alone."""
    conn, client = await rows.connect(elsewhere), await app.client()
    async with conn.transaction():
        await accepted.outbox.submit(conn, "nope")
    assert await Forwarder(elsewhere, client.http, DAY).run_once(conn) == 0
    assert await conn.fetchval("SELECT stopped FROM accepted_outbox") == "refused with 422"
    await conn.execute("UPDATE accepted_outbox SET tried_at = tried_at - interval '2 days'")
    await conn.execute('UPDATE accepted_outbox SET body = \'{"type": "noop"}\', stopped = NULL, due_at = now()')
    (late,) = await rows.take(conn, 1, 0.0, DAY)
    (taken,) = await rows.take(conn, 1, 0.0, DAY)
    await rows.stop(conn, late, "refused with 422")
    assert await conn.fetchval("SELECT stopped FROM accepted_outbox") is None
    await rows.put_off(conn, [taken], 0.0, [])
    assert await Forwarder(elsewhere, client.http, DAY).run_once(conn) == 1
    assert len(await found_in(app.engine, "SELECT 1 FROM jobs")) == 1
    await conn.close()


ELSEWHERE_GONE = '{"type": "about:blank", "title": "Gone", "status": 410}'


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "<html>sorry</html>"),
        (202, "[]"),
        (200, '{"ok": true}'),
        (410, "gone"),
        (410, ELSEWHERE_GONE),
        (302, ""),
    ],
)
async def test_nothing_is_deleted_for_an_answer_that_is_no_job(elsewhere: str, status: int, body: str) -> None:
    """As a page that stands in for the service gives, or whatever else is at a wrong address."""
    conn = await rows.connect(elsewhere)
    async with conn.transaction():
        await accepted.outbox.submit(conn, "noop")
    page = httpx.MockTransport(lambda request: httpx.Response(status, text=body))
    async with httpx.AsyncClient(transport=page, base_url="http://page") as client:
        assert await Forwarder(elsewhere, client, DAY).run_once(conn) == 0
    assert (await rows.backlog(conn)).waiting == 1
    await conn.close()


async def test_a_table_that_is_too_large_to_count_is_forwarded(
    app: HttpApp, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "COMMAND_TIMEOUT", 2.0)
    monkeypatch.setattr(rows, "_BACKLOG", "SELECT pg_sleep(60)")
    conn = await rows.connect(elsewhere)
    async with conn.transaction():
        await accepted.outbox.submit(conn, "noop")
    assert await Forwarder(elsewhere, (await app.client()).http, DAY).run_once(conn) == 1
    await conn.close()


async def test_a_forwarder_that_stood_still_leaves_what_another_has_taken(elsewhere: str) -> None:
    conn = await rows.connect(elsewhere)
    async with conn.transaction():
        id = await accepted.outbox.submit(conn, "noop")
    (late,) = await rows.take(conn, 1, 0.0, DAY)
    (taken,) = await rows.take(conn, 1, 60.0, DAY)
    await rows.put_off(conn, [late], 0.0, [late.id])
    assert dict(await conn.fetchrow("SELECT id, due_at, tried_at IS NOT NULL AS tried FROM accepted_outbox") or {}) == {
        "id": id, "due_at": taken.taken_until, "tried": True,
    }  # fmt: skip
    await rows.put_off(conn, [taken], 0.0, [taken.id])
    assert await conn.fetchval("SELECT tried_at FROM accepted_outbox") is None
    await conn.close()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://", "http://u:secret@[::1", "ftp://example.com"])
async def test_an_address_to_which_nothing_can_be_sent_is_said_at_the_start(url: str) -> None:
    """Each try would use up the keys of the rows, and send nothing."""
    with pytest.raises(ClientError, match=r"ACCEPTED_URL=\(hidden\): is not a URL"):
        await process.run("postgresql://nobody@127.0.0.1:1/none", url, "acc_k", DAY)


async def test_what_the_outbox_refuses(elsewhere: str) -> None:
    conn = await asyncpg.connect(elsewhere)
    with pytest.raises(ValueError, match="no transaction is open"):
        await accepted.outbox.submit(conn, "noop")
    with pytest.raises(ValueError, match="is the idempotency key"):
        accepted.outbox.submit(conn, "noop", idempotency_key="k")
    await conn.close()
