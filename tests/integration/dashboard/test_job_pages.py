"""What the pages of jobs say after an act, without scripts."""

import json

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.dashboard.pages import many_jobs
from accepted.services.jobs import many
from tests.support.clients.form_browser import FormBrowser, hidden_fields
from tests.support.ledger.dead_letters import fail
from tests.support.ledger.jobs import put
from tests.support.ledger.sql import rows
from tests.support.service.http_app import HttpApp


async def test_an_act_that_is_refused_is_not_shown_as_done(app: HttpApp, admin: FormBrowser) -> None:
    client = await app.client()
    gone, there = [(await client.submit("noop", delay=3600))["id"] for _ in range(2)]
    await client.http.post(f"/jobs/{gone}/cancel")
    for job, said in ((gone, 'refused" role="status">0 jobs are'), (there, 'done" role="status">1 job is')):
        await admin.send("/ui/jobs", "/ui/jobs/act", act="cancel", id=job)
        assert f'<p class="notice {said} cancelled.' in await admin.text("/ui/jobs")


async def test_an_act_on_all_that_takes_long_says_what_is_left_and_goes_on(
    admin: FormBrowser, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call does one piece, and an act one call."""
    for module, name, value in ((many, "MANY_SECONDS", 0.0), (many, "MAX_BATCH", 4), (many_jobs, "PATIENCE", 0.0)):
        monkeypatch.setattr(module, name, value)
    await put(engine, 10)
    confirmed = await admin.send("/ui/jobs", "/ui/jobs/confirm", act="cancel", which="all", queue="q", query="queue=q")
    assert "<h1>Cancel 10 jobs?</h1>" in confirmed.text
    fields = hidden_fields(confirmed.text)
    for done, left in ((4, 6), (8, 2)):
        asked = await admin.send("/ui/jobs", "/ui/jobs/act", **fields)
        assert (asked.status_code, f"{done} jobs are cancelled." in asked.text) == (200, True)
        assert f"<h1>Cancel {left} more jobs?</h1>" in asked.text
        fields = hidden_fields(asked.text)
    ended = await admin.send("/ui/jobs", "/ui/jobs/act", **fields)
    assert ended.headers["location"] == "/ui/jobs?queue=q"
    assert "10 jobs are cancelled." in await admin.text("/ui/jobs")
    assert len(await rows(engine, "SELECT 1 AS one FROM jobs WHERE status = 'cancelled'")) == 10


@pytest.mark.parametrize("text", ["[" + "0," * 130_000 + "0]", '"' + "é" * 130_000 + '"'])
async def test_the_form_takes_as_large_a_payload_as_the_api(admin: FormBrowser, engine: AsyncEngine, text: str) -> None:
    (job_id,) = await fail(engine, payload=f'{{"n":{text}}}')
    page = f"/ui/jobs/{job_id}/edit"
    shown = (await admin.text(page)).partition("<textarea")[2].partition("\n")[2].partition("</textarea>")[0]
    shown = shown.replace("&#34;", '"').replace("\n", "\r\n")
    assert json.loads(shown) == json.loads(f'{{"n":{text}}}')
    assert (await admin.send(page, page, payload=shown)).status_code == 303
