"""The pages of schedules and webhooks without scripts: what they say, their acts, and who may not."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from tests.support.clients.form_browser import FormBrowser, hidden_fields, signed_in
from tests.support.ledger.schedules import back, fire, job_checks, put, runs
from tests.support.ledger.sql import do, rows
from tests.support.ledger.webhook_deliveries import delivered
from tests.support.service.http_app import HttpApp

LIST, NEW = "/ui/schedules", "/ui/new-schedule"

NIGHTLY = {
    "name": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Berlin",
    "job": '{"type": "noop", "payload": {"n": 1}}',
    "on_missed": "run_once", "overlap": "skip", "spread_over": "5", "enabled": "yes",
}  # fmt: skip


async def test_a_schedule_is_previewed_written_and_warns_of_the_clock(admin: FormBrowser, engine: AsyncEngine) -> None:
    assert "There is no schedule yet" in await admin.text(LIST)
    previewed = await admin.send(NEW, NEW, **NIGHTLY, act="preview")
    assert "the clock in Europe/Berlin skips" in previewed.text
    assert not await rows(engine, "SELECT 1 AS one FROM schedules")
    written = await admin.send(NEW, NEW, **NIGHTLY)
    assert written.headers["location"] == f"{LIST}/nightly"
    stored = "SELECT job, on_missed, overlap, spread_over, enabled FROM schedules"
    (row,) = await rows(engine, stored)
    assert tuple(row.values()) == ({"type": "noop", "payload": {"n": 1}}, "run_once", "skip", 300.0, True)
    for page in (LIST, f"{LIST}/nightly"):
        assert "the clock in Europe/Berlin skips" in await admin.text(page)

    done = await admin.send(LIST, f"{LIST}/nightly/disable", **{"from": "list"})
    assert done.headers["location"] == LIST
    assert "Disabled: it does not fire." in await admin.text(f"{LIST}/nightly")
    await admin.send(LIST, f"{LIST}/nightly/enable")
    (again,) = await rows(engine, stored)
    assert tuple(again.values()) == tuple(row.values())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cron": "61 * * * *"}, "cron: "),
        ({"timezone": "Mars/Base"}, "timezone: "),
        ({"job": '{"type": "noop", "run_at": "2030-01-01T00:00:00Z"}'}, "job/run_at: "),
        ({"job": '{"type": '}, "JSON"),
        ({"job": '{"type": "noop"}, "enabled": false'}, "enabled"),
        ({"name": "a/b"}, "name: "),
        ({"name": ""}, "name: "),
        ({"spread_over": "long"}, "spread_over: "),
    ],
)
async def test_a_wrong_schedule_is_refused_as_by_the_api(
    admin: FormBrowser, engine: AsyncEngine, fields: dict[str, Any], said: str
) -> None:
    answer = await admin.send(NEW, NEW, **(NIGHTLY | fields))
    assert (answer.status_code, said in answer.text) == (422, True), answer.text
    assert 'value="Europe/Berlin"' in answer.text or "timezone" in fields, "what was typed is still there"
    assert not await rows(engine, "SELECT 1 AS one FROM schedules")


async def test_runs_of_a_schedule_and_its_acts(
    admin: FormBrowser, reader: FormBrowser, engine: AsyncEngine, broker: PostgresBroker
) -> None:
    await put(engine, "s", tenant="t")
    await back(engine, 3600)
    await fire(engine, broker, await job_checks(engine))
    assert "missed." in await reader.text(f"{LIST}/s")
    assert " of the last " in await reader.text(LIST)
    acts = ("trigger", "enable", "disable", "delete")
    answers = [await reader.send(LIST, f"{LIST}/s/{act}", sure="yes") for act in acts]
    answers.append(await reader.send(LIST, NEW, **NIGHTLY))
    assert {answer.status_code for answer in answers} == {403}
    assert "<form" not in (await reader.text(LIST)).partition("<main")[2]
    assert (await admin.send(LIST, f"{LIST}/s/trigger")).status_code == 303
    assert [run["outcome"] for run in await runs(engine)][-1] == "triggered"
    asked = await admin.send(LIST, f"{LIST}/s/delete")
    assert "Schedule s fires no more." in asked.text
    await admin.send(LIST, f"{LIST}/s/delete", **hidden_fields(asked.text))
    assert (await admin.get(f"{LIST}/s")).status_code == 404


async def test_receivers_that_fail_are_named_and_released(
    admin: FormBrowser, reader: FormBrowser, app: HttpApp, engine: AsyncEngine
) -> None:
    page = "/ui/webhooks"
    assert "No receiver is held back." in await admin.text(page)
    for status in ("succeeded", "succeeded", "failed"):
        _, delivery = await delivered(engine, status)
    held = "INSERT INTO targets (tenant, host, failures, reason, deferred_until) VALUES (:t, :h, 7, 'transient', :u)"
    (soon,) = await rows(engine, "SELECT now() + interval '1 hour' AS at")
    await do(engine, held, t="t", h="example.com:80", u=soon["at"])
    shown = await reader.text(page)
    assert "held back" in shown
    assert '<td class="number bad">67 %</td><td class="number">3</td>' in shown
    assert "the receiver answered 410 Gone" in shown
    assert f"delivery-{delivery}" not in await reader.text(page + "?status=succeeded")
    assert f"delivery-{delivery}" not in await (await signed_in(app, "jobs:read", tenant="other")).text(page)

    again = f"{page}/{delivery}/redeliver"
    assert (await reader.send(page, again)).status_code == 403
    assert (await reader.send(page, f"{page}/release", host="example.com:80")).status_code == 403
    assert (await admin.send(page, f"{page}/release", host="example.com:80")).headers["location"] == page
    assert "No receiver is held back." in await admin.text(page)
    assert (await admin.send(page, again)).status_code == 303
    (row,) = await rows(engine, "SELECT status FROM jobs WHERE id = :id", id=delivery)
    assert row["status"] == "queued"
