"""Submitting, making and revoking keys, as people click it, without scripts and with them; and who may not act."""

import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from fastapi.routing import APIRoute
from playwright.async_api import Browser

from accepted.dashboard.routes import PAGES
from tests.support.clients.browser import Person, person
from tests.support.clients.client import Client
from tests.support.servers.receiver import Receiver
from tests.support.service.running_service import Running


async def test_a_job_is_submitted(somebody: Person, ann: Client, queue: str, target: Receiver) -> None:
    """What its schema refuses is refused in the words of the API."""
    wrong = {"url": "nowhere", "timeout": "soon"}
    errors = (await ann.post({"type": "http.request", "payload": wrong})).json()["errors"]
    await somebody.look("/ui/submit")
    page = await somebody.press("http.request")
    await somebody.type(**wrong)
    said = await somebody.ask("Submit", 422)
    assert {one["pointer"] for one in errors} == {"/payload/url", "/payload/timeout"}
    assert all(one["detail"] in said for one in errors), said
    assert await page.get_by_label(re.compile("^url")).input_value() == "nowhere"
    await page.get_by_label(re.compile("^method")).select_option("POST")
    payload = {"method": "POST", "url": f"{target.url}/", "headers": {"x-a": "1"}, "timeout": 1.5}
    await somebody.type(url=target.url + "/", timeout="1.5", headers='{"x-a": "1"}', Queue=queue, Tags="a, b")
    page = await somebody.press("Submit")
    assert await somebody.said() == "The job is accepted."
    job = await ann.finished(page.url.rpartition("/")[2])
    assert (job["status"], job["queue"], job["tags"], job["payload"]) == ("succeeded", queue, ["a", "b"], payload)
    assert [sent.headers["x-a"] for sent in target.requests] == ["1"]


async def test_a_key_is_made_and_revoked(somebody: Person, trio: Running) -> None:
    name = f"CI {uuid4().hex[:8]}"
    page = await somebody.look("/ui/keys")
    await somebody.type(What_it_is_for=name)
    await page.get_by_label("jobs:read", exact=True).uncheck()
    assert "scopes: " in await somebody.ask("Make", 422)
    await page.get_by_label("jobs:read", exact=True).check()
    found = re.search(r"acc_\S+", await somebody.ask("Make", 201))
    assert found
    guest = trio.client(found[0])
    assert (await guest.get("/jobs")).status_code == 200
    page = await somebody.press("I have it")
    assert found[0] not in await page.content()
    assert "is refused at once" in await somebody.ask(f"Revoke… {name}")
    assert (await guest.get("/jobs")).status_code == 200
    await somebody.press("Revoke 1 key")
    assert await somebody.said() == f"Key {name} is revoked."
    assert (await guest.get("/jobs")).status_code == 401
    await somebody.look("/ui/audit")
    await page.get_by_label("Act", exact=True).select_option("key.revoked")
    page = await somebody.press("Filter")
    acts = await page.get_by_role("rowheader").all_inner_texts()
    assert set(acts) == {"key.revoked"}
    assert found[0] not in await page.content()


def acts() -> list[str]:
    """The paths of all forms, but those of signing in and out."""
    routes: list[Any] = [route for part in PAGES for route in part.router.routes]
    found = [route.path for route in routes if isinstance(route, APIRoute) and "POST" in route.methods]
    return [path for path in found if not path.startswith("/ui/sign-")]


async def send(somebody: Person, path: str, job: str) -> int:
    """What a form that was made elsewhere is answered with."""
    token = await somebody.page.locator("[name=csrf]").first.input_value()
    form = {
        "csrf": token, "sure": "yes", "act": "cancel", "id": job, "which": "all", "payload": "{}", "type": "noop",
        "host": "example.com:80", "name": "x", "scopes": "jobs:read", "cron": "1 * * * *", "timezone": "UTC",
        "job": '{"type": "noop"}', "on_missed": "skip", "overlap": "allow", "spread_over": "0",
    }  # fmt: skip
    answer = await somebody.context.request.post(somebody.url + path, form=form, max_redirects=0)
    return answer.status


async def test_nobody_else_can_act(
    browser: Browser, trio: Running, people: Mapping[str, str], ann: Client, wholes: list[str], queue: str
) -> None:
    """A reader can do nothing, and another tenant nothing to what is not its own."""
    job = (await ann.submit(delay=3600, queue=queue))["id"]
    schedule, batch = (path.rpartition("/")[2] for path in wholes)
    keys = (await ann.get("/keys")).json()["items"]
    names = {"job_id": job, "delivery_id": job, "process_id": job, "batch_id": batch, "key_id": keys[0]["id"]}

    def filled(path: str) -> str:
        name = queue if path.startswith("/ui/queues") else schedule
        return path.replace("{act}", "cancel").format(name=name, **names)

    async with person(browser, trio.url, people["reader"]) as reader:
        await reader.look("/")
        assert {path: await send(reader, filled(path), job) for path in acts()} == dict.fromkeys(acts(), 403)
    async with person(browser, trio.url, people["bob"]) as bob:
        await bob.look("/")
        nothing = ("/ui/workers/{process_id}/drain", "/ui/batches/{batch_id}/retry")  # say that there is none
        foreign = [path for path in acts() if "{" in path and path not in nothing]
        answers = {path: await send(bob, filled(path), job) for path in foreign}
        assert len(answers) > 10
        assert set(answers.values()) <= {403, 404, 422}, answers
        assert await send(bob, "/ui/jobs/act", job) == 303
    assert (await ann.job(job))["status"] == "scheduled"
    assert (await ann.get("/schedules/nightly")).json()["enabled"]
    assert (await ann.get("/keys")).json()["items"] == keys
