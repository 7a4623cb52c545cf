"""The pages of queues and dead letters without scripts: what they say, their acts, and who may not."""

import json
import re

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import Message, Receive, Scope, Send

from accepted.domain.failures import FailureClass
from accepted.services import keys
from tests.support.clients.form_browser import FormBrowser, hidden_fields, signed_in
from tests.support.ledger.dead_letters import fail
from tests.support.ledger.sql import rows
from tests.support.service.http_app import HttpApp, a_worker, measured

HOSTILE = "<script>alert(1)</script> 42"


async def submit(app: HttpApp, count: int = 1) -> None:
    client = await app.client()
    for _ in range(count):
        await client.submit(queue="q")


async def test_a_queue_says_what_waits_why_and_how_many_slots_it_needs(
    admin: FormBrowser, reader: FormBrowser, app: HttpApp, engine: AsyncEngine
) -> None:
    assert "There is no queue yet" in await admin.text("/ui/queues")
    await submit(app, 3)
    await a_worker(engine, queues=["q"])
    await measured(engine, 200, 0.4)
    assert 'id="queue-q"' in await reader.text("/ui/queues")
    shown = await reader.text("/ui/queues/q")
    assert "It waits behind 2 others on queue q" in shown
    assert "Advised: at most 80% busy, and 3 waiting jobs worked off within 300 s." in shown
    assert "worked off within 120 s" in await reader.text("/ui/queues/q?drain=2")
    assert "<form" not in re.sub(r"(?s)<header>.*</header>|<form class=\"filters\".*?</form>", "", shown)

    for act in ("pause", "resume", "limits"):
        assert (await reader.send("/ui/queues", f"/ui/queues/q/{act}")).status_code == 403
    done = await admin.send("/ui/queues", "/ui/queues/q/pause", **{"from": "list"})
    assert (done.status_code, done.headers["location"]) == (303, "/ui/queues")
    page = await admin.text("/ui/queues/q")
    assert page.count("Queue q is paused.") == 4, "what was done, and why each of three jobs waits"
    await admin.send("/ui/queues/q", "/ui/queues/q/resume")
    assert "Paused:" not in await admin.text("/ui/queues/q")


async def test_dead_letters_are_seen_by_error_and_exported(
    admin: FormBrowser, app: HttpApp, engine: AsyncEngine
) -> None:
    assert "No dead letter awaits a decision" in await admin.text("/ui/dead-letters")
    await fail(engine, 205, FailureClass.AUTH, HOSTILE)
    await fail(engine, 1, FailureClass.INVALID, "another", queue="r")
    page = await admin.text("/ui/dead-letters")
    assert "&lt;script&gt;alert(…)&lt;/script&gt; …" in page
    assert "<script>alert" not in page
    assert '<td class="number">205</td>' in page
    each = await admin.text("/ui/dead-letters?view=each&class=auth")
    assert each.count('name="ids"') == 50
    older = re.search(r'href="(/ui/dead-letters\?view=each[^"]*cursor=[^"]*)"', each)
    assert older
    assert (await admin.text(older[1].replace("&amp;", "&"))).count('name="ids"') == 50
    exported = await admin.text("/ui/dead-letters/export?class=auth")
    assert len({json.loads(line)["id"] for line in exported.splitlines()}) == 205
    other = await signed_in(app, "jobs:read", tenant="other")
    assert "No dead letter awaits" in await other.text("/ui/dead-letters")
    assert (await admin.get("/ui/dead-letters?class=bad")).status_code == 422


async def test_an_export_ends_with_its_key(app: HttpApp, engine: AsyncEngine) -> None:
    """And says that it is not complete."""
    await fail(engine, 205, FailureClass.AUTH)
    browser = await signed_in(app, "jobs:read")
    (key,) = await rows(engine, "SELECT id FROM api_keys WHERE name = 'Ann'")

    async def revoking(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_revoke(message: Message) -> None:
            await send(message)
            if message.get("body"):
                await keys.revoke(engine, key["id"])
                app.state.keys.forget()

        await app.application(scope, receive, send_and_revoke)

    transport = httpx.ASGITransport(revoking)
    async with httpx.AsyncClient(transport=transport, base_url="http://api", cookies=browser.http.cookies) as http:
        lines = [json.loads(line) for line in (await http.get("/ui/dead-letters/export")).text.splitlines()]
    assert (len(lines), [*lines[-1]]) == (201, ["error"])


async def test_letters_are_replayed_at_a_pace_after_a_dry_run(
    admin: FormBrowser, reader: FormBrowser, engine: AsyncEngine
) -> None:
    await fail(engine, 20)
    kept = await fail(engine, 1, queue="r")
    page, act = "/ui/dead-letters", "/ui/dead-letters/replay"
    assert (await reader.send(page, act, queue="q", sure="yes")).status_code == 403
    asked = await admin.send(page, act, queue="q", minutes="10")
    assert "<b>20 dead letters</b> of queue q. One starts every 30 s." in asked.text
    fields = hidden_fields(asked.text)
    await fail(engine, 1)
    wrong = await admin.send(page, act, **fields, minutes="soon")
    assert (wrong.status_code, "spread_over:" in wrong.text) == (422, True)
    done = await admin.send(page, act, **fields, minutes="10")
    assert done.headers["location"] == "/ui/dead-letters?queue=q"
    assert "20 dead letters replayed over 10 min." in await admin.text("/ui/dead-letters")
    spread = "SELECT max(run_at) - min(run_at) AS span, count(*) AS n FROM jobs WHERE status <> 'failed'"
    (row,) = await rows(engine, spread)
    assert (row["n"], 500 < row["span"].total_seconds() < 600) == (20, True)

    unselected = await admin.send(page, act, selected="yes", sure="yes")
    assert unselected.headers["location"].endswith("view=each")
    chosen = await admin.send(page, "/ui/dead-letters/discard", ids=str(kept[0]), selected="yes")
    assert "1 dead letter that you have selected" in chosen.text
    await admin.send(page, "/ui/dead-letters/discard", **hidden_fields(chosen.text))
    left = await admin.text(page + "?view=each")
    assert (left.count('name="ids"'), str(kept[0]) in left) == (1, False)
    assert (await reader.send(page, "/ui/dead-letters/discard", sure="yes")).status_code == 403
