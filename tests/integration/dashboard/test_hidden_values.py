"""A value that the type hides is on no page, and a form that comes back keeps it."""

import json
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.dashboard.hiding import HIDDEN
from tests.support.clients.form_browser import FormBrowser
from tests.support.ledger.dead_letters import fail
from tests.support.ledger.sql import rows
from tests.support.ledger.webhook_deliveries import delivered
from tests.support.service.http_app import HttpApp

SECRET = "hunter2-and-more"

SCHEMA = {
    "type": "object",
    "properties": {
        "user": {"type": "string"},
        "password": {"type": "string", "format": "password", "writeOnly": True},
        "receivers": {"type": "array", "items": {"$ref": "#/$defs/receiver"}},
    },
    "$defs": {"receiver": {"type": "object", "properties": {"token": {"type": "string", "writeOnly": True}}}},
}

PAYLOAD = {"user": "ann", "password": SECRET, "receivers": [{"token": SECRET}]}

SHOWN = {"user": "ann", "password": HIDDEN, "receivers": [{"token": HIDDEN}]}


@pytest.fixture
async def typed(app: HttpApp) -> str:
    """A type with secrets."""
    client = await app.client()
    assert (await client.http.put("/job-types/mail.login", json={"payload_schema": SCHEMA})).status_code == 201
    return "mail.login"


async def payload(engine: AsyncEngine, job_id: object) -> Any:
    (row,) = await rows(engine, "SELECT payload FROM jobs WHERE id = :id", id=job_id)
    return row["payload"]


async def test_pages_of_a_job(engine: AsyncEngine, admin: FormBrowser, typed: str) -> None:
    (job_id,) = await fail(engine, type=typed, payload=json.dumps(PAYLOAD))
    page, edit = f"/ui/jobs/{job_id}", f"/ui/jobs/{job_id}/edit"
    for path in (page, edit, "/ui/jobs", "/ui/dead-letters", "/ui/dead-letters?view=each", "/ui/dead-letters/export"):
        assert SECRET not in await admin.text(path), path
    assert (await admin.text(page)).count(HIDDEN) == 4, "two as JSON, and two as curl"
    assert "Idempotency-Key: " in await admin.text(page)

    added = SHOWN | {"receivers": [{"token": HIDDEN}, {"token": HIDDEN}]}
    refused = await admin.send(edit, edit, payload=json.dumps(added))
    assert (refused.status_code, "/receivers/0/token: " in refused.text) == (422, True)
    assert (await admin.send(edit, edit, payload=json.dumps(SHOWN | {"user": "bob"}))).status_code == 303
    assert await payload(engine, job_id) == PAYLOAD | {"user": "bob"}
    again = await admin.text(page)
    assert "Before attempt 2" in again
    assert SECRET not in again

    made = await admin.send(page, f"{page}/again")
    assert await payload(engine, made.headers["location"].rpartition("/")[2]) == PAYLOAD | {"user": "bob"}


async def test_a_webhook_tells_of_a_hidden_value(engine: AsyncEngine, admin: FormBrowser, typed: str) -> None:
    """The receiver gets all of it. The page of the delivery, which is a job, does not show it."""
    _, delivery = await delivered(engine, "failed", type=typed, payload=json.dumps(PAYLOAD))
    assert SECRET in json.dumps(await payload(engine, delivery))
    shown = await admin.text(f"/ui/jobs/{delivery}")
    assert SECRET not in shown
    assert HIDDEN in shown
    assert "As curl" not in shown


async def test_a_schedule(app: HttpApp, engine: AsyncEngine, admin: FormBrowser, typed: str) -> None:
    client = await app.client()
    daily = {"cron": "0 6 * * *", "timezone": "UTC", "job": {"type": typed, "payload": PAYLOAD}}
    assert (await client.http.put("/schedules/daily", json=daily)).status_code == 201
    page, form = "/ui/schedules/daily", "/ui/new-schedule"
    for path in ("/ui/schedules", page):
        assert SECRET not in await admin.text(path), path
    sent = {"name": "daily", "cron": "0 7 * * *", "on_missed": "skip", "overlap": "allow", "enabled": "yes"}
    job = json.dumps({"type": typed, "payload": SHOWN})
    assert (await admin.send(page, form, **sent, job=job)).status_code == 303
    (row,) = await rows(engine, "SELECT cron, job FROM schedules")
    assert (row["cron"], row["job"]["payload"]) == ("0 7 * * *", PAYLOAD)
    two = json.dumps({"type": typed, "payload": {"receivers": [{"token": HIDDEN}] * 2}})
    for changed in ({"name": "another"}, {"job": two}):
        refused = await admin.send(page, form, **(sent | {"job": job} | changed))
        assert (refused.status_code, "write the value itself" in refused.text) == (422, True)


async def test_the_form_of_a_new_job(engine: AsyncEngine, admin: FormBrowser, typed: str) -> None:
    page = f"/ui/submit?type={typed}"
    assert 'name="payload.password" type="password"' in await admin.text(page)
    given = {"type": typed, "payload.user": "ann", "payload.password": SECRET}
    refused = await admin.send(page, "/ui/submit", **given, priority="high")
    assert (refused.status_code, ">ann</textarea>" in refused.text, SECRET in refused.text) == (422, True, False)
    copied = await admin.send(page, "/ui/submit", type=typed, as_json="yes", payload=json.dumps(SHOWN))
    assert (copied.status_code, "/password: " in copied.text) == (422, True)
    assert (await admin.send(page, "/ui/submit", **given)).status_code == 303
    (row,) = await rows(engine, "SELECT payload FROM jobs")
    assert row["payload"] == {"user": "ann", "password": SECRET}
