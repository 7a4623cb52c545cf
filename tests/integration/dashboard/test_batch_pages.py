"""The pages of batches and of submission without scripts: what they say, their acts, and who may not."""

import re
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.clients.form_browser import FormBrowser, hidden_fields, signed_in
from tests.support.ledger.sql import do, rows
from tests.support.service.http_app import HttpApp

GRAPH = [
    {"ref": "extract", "type": "noop"},
    {"ref": "<b>load</b>", "type": "noop", "depends_on": ["extract"]},
    {"ref": "report", "type": "noop", "depends_on": ["extract", "<b>load</b>"]},
]


async def made(app: HttpApp, path: str, jobs: list[dict[str, Any]], tenant: str = "t") -> str:
    answer = await (await app.client(tenant)).http.post(path, json={"jobs": jobs})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def test_batches_are_listed_by_the_api(app: HttpApp) -> None:
    ids = [await made(app, "/batches", [{"type": "noop"}] * 2) for _ in range(3)]
    await made(app, "/batches", [{"type": "noop"}], "other")
    client = await app.client()
    first = (await client.get("/batches?limit=2")).json()
    assert [one["id"] for one in first["items"]] == ids[:0:-1]
    assert first["items"][0]["counts"] == {"queued": 2}
    rest = (await client.get(f"/batches?limit=2&cursor={first['next']}")).json()
    assert ([one["id"] for one in rest["items"]], rest["next"]) == (ids[:1], None)


async def test_a_workflow_is_drawn_cancelled_and_retried(
    admin: FormBrowser, reader: FormBrowser, app: HttpApp, engine: AsyncEngine
) -> None:
    assert "There is no batch yet" in await admin.text("/ui/batches")
    id = await made(app, "/workflows", GRAPH)
    page = f"/ui/batches/{id}"
    assert id in await reader.text("/ui/batches")
    shown = await reader.text(page)
    assert shown.count('<path d="M') == 3
    assert "&lt;b&gt;load&lt;/b&gt;" in shown
    assert "<b>load" not in shown
    assert "0 of 3 jobs finished" in shown
    for act in ("cancel", "retry"):
        assert (await reader.send("/ui/queues", f"{page}/{act}", sure="yes")).status_code == 403
    assert (await (await signed_in(app, "jobs:read", tenant="other")).get(page)).status_code == 404

    asked = await admin.send(page, f"{page}/cancel")
    assert "3 jobs of 3 not finished yet." in asked.text
    assert (await admin.send(page, f"{page}/cancel", **hidden_fields(asked.text))).status_code == 303
    assert "3 of 3 jobs finished" in await admin.text(page)
    await do(
        engine,
        "UPDATE jobs SET started_at = finished_at - CASE ref WHEN 'extract' THEN 1 ELSE 20 END * interval '1 second'",
    )
    drawn = await admin.text(page)
    assert "The longest chain is extract → &lt;b&gt;load&lt;/b&gt; → report: 41 s of " in drawn
    assert [len(re.findall(f'<{part}[^>]*class="[^"]*critical"', drawn)) for part in ("path", "rect")] == [2, 3]
    asked = await admin.send(page, f"{page}/retry")
    assert "Retry 3 jobs" in asked.text
    await admin.send(page, f"{page}/retry", **hidden_fields(asked.text))
    assert await rows(engine, "SELECT 1 AS one FROM jobs WHERE status = 'queued'")


async def test_a_job_is_submitted_once_by_a_form_of_its_schema(
    admin: FormBrowser, reader: FormBrowser, engine: AsyncEngine
) -> None:
    page = "/ui/submit?type=http.request"
    assert "http.request" in await admin.text("/ui/submit")
    form = await admin.text(page)
    for field in ("method", "url", "headers", "json", "timeout"):
        assert f'name="payload.{field}"' in form
    wrong = {"type": "http.request", "payload.url": "nowhere", "payload.timeout": "soon"}
    answer = await admin.send(page, "/ui/submit", **wrong)
    assert answer.status_code == 422
    assert set(re.findall(r'id="wrong-([^"]+)"', answer.text)) == {"payload.url", "payload.timeout"}
    assert 'value="nowhere"' in answer.text
    right = {
        "type": "http.request", "payload.url": "https://example.com/", "payload.method": "POST", "tags": "a, b",
        "payload.headers": '{"x-a": "1"}', "payload.timeout": "1.5", "queue": "calls", "key": "once",
    }  # fmt: skip
    answers = [await admin.send(page, "/ui/submit", **right) for _ in range(2)]
    assert {answer.status_code for answer in answers} == {303}
    assert len({answer.headers["location"] for answer in answers}) == 1
    (row,) = await rows(engine, "SELECT payload, queue, tags FROM jobs")
    expected = {"url": "https://example.com/", "method": "POST", "headers": {"x-a": "1"}, "timeout": 1.5}
    assert tuple(row.values()) == (expected, "calls", ["a", "b"])
    assert (await reader.send("/ui/queues", "/ui/submit", **right)).status_code == 403
    assert {(await reader.get(form)).status_code for form in (page, "/ui/new-schedule")} == {403}


@pytest.mark.parametrize("payload", ['{"a": ', '{"a": 1, "a": 2}', "[]", '{"unknown": 1}'])
async def test_a_payload_as_json_is_judged_by_the_api(admin: FormBrowser, engine: AsyncEngine, payload: str) -> None:
    page = "/ui/submit?type=sleep&as=json"
    answer = await admin.send(page, "/ui/submit", type="sleep", as_json="yes", payload=payload)
    assert answer.status_code in (400, 422)
    assert 'role="alert"' in answer.text
    assert not await rows(engine, "SELECT 1 AS one FROM jobs")
