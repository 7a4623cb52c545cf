"""Acts on jobs and workers, as people click them, without scripts and with them."""

import json
import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Browser
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.clients.browser import Person, nowhere, person
from tests.support.clients.client import Client
from tests.support.ledger.sql import do
from tests.support.service.running_service import Running
from tests.support.waiting import until


async def failed(ann: Client, **fields: Any) -> str:
    """The id of a dead letter."""
    job = await ann.finish("http.request", {"url": "http://127.0.0.1:1/"}, retry={"max_attempts": 1}, **fields)
    return str(job["id"])


async def test_acts_on_one_job(plain: Person, ann: Client) -> None:
    waiting = (await ann.submit(delay=3600))["id"]
    dead = await failed(ann, callback_url=nowhere(), tags=["kept"])
    await plain.look(f"/ui/jobs/{waiting}")
    await plain.press("Cancel")
    assert (await ann.job(waiting))["status"] == "cancelled"
    assert "is cancelled" in await plain.said()
    page = await plain.press("Retry")
    assert (await ann.finished(waiting))["status"] == "succeeded"
    assert await plain.said() == "The job runs again."
    page = await plain.press("Submit again")
    assert page.url.rpartition("/")[2] != waiting

    async def sent_again() -> bool:
        """Not while the delivery is being sent, which it is again and again."""
        page = await plain.look(f"/ui/jobs/{dead}")
        button = page.get_by_role("button", name="Send again")
        if not await button.count():
            return False
        async with page.expect_navigation() as led:
            await button.click()
        answer = await led.value
        await plain.check(answer, answer.status)
        return "sent again" in await page.inner_text("main")

    await until(sent_again, 30, "the delivery to be sent again")
    await plain.ask("Edit and retry")
    page = plain.page
    for text, refusal in (("{", "no JSON"), ('{"url": 7}', "url")):
        await page.fill("#payload", text)
        await plain.ask("Retry with this payload", 422)
        assert refusal in await page.inner_text("[role=alert]")
        assert await page.input_value("#payload") == text
    elsewhere = {"url": nowhere()}
    await page.fill("#payload", json.dumps(elsewhere))
    page = await plain.press("Retry with this payload")
    assert (await ann.finished(dead))["payload"] == elsewhere
    page = await plain.look(f"/ui/jobs/{dead}")
    assert "127.0.0.1:1" in await page.locator("details", has_text="Before attempt").inner_html()
    assert "Delete 1 job?" in await plain.ask("Delete…")
    await plain.press("Delete")
    assert (await ann.get(f"/jobs/{dead}")).status_code == 410
    await plain.look(f"/ui/jobs/{dead}", 410)


async def test_acts_on_many_jobs(somebody: Person, ann: Client) -> None:
    """The number is shown first, and nothing is done before it is confirmed."""
    queue = f"many-{uuid4().hex[:8]}"
    made = [(await ann.submit(delay=3600, queue=queue))["id"] for _ in range(5)]
    page = await somebody.look(f"/ui/jobs?queue={queue}")
    await somebody.press("Selected…")
    assert await somebody.said() == "No job is selected."
    for job_id in made[:2]:
        await page.check(f"#job-{job_id} input")
    assert "Cancel 2 jobs?" in await somebody.ask("Selected…")
    assert (await ann.job(made[0]))["status"] == "scheduled"
    page = await somebody.press("Cancel")
    assert await somebody.said() == "2 jobs are cancelled."
    page = await somebody.press("All that match…")
    assert await page.inner_text("h1") == "Cancel 3 jobs?"
    await somebody.press("Cancel")
    assert {(await ann.job(job_id))["status"] for job_id in made} == {"cancelled"}
    page = await somebody.look(f"/ui/jobs?queue={queue}&status=cancelled")
    await page.select_option("#act", "delete")
    await somebody.press("All that match…")
    await somebody.press("Delete")
    assert {(await ann.get(f"/jobs/{job_id}")).status_code for job_id in made} == {410}


@pytest.mark.parametrize("scripts", [False, True])
async def test_a_process_is_drained(
    browser: Browser, trio: Running, people: Mapping[str, str], ledger: AsyncEngine, scripts: bool
) -> None:
    """One that only has a heartbeat, because those of this service have work to do."""
    await do(
        ledger,
        "INSERT INTO processes (id, kind, host, pid, version, started_at) "
        "VALUES (gen_random_uuid(), 'scheduler', 'elsewhere', 7, '0', now())",
    )
    async with person(browser, trio.url, people["operator"], java_script_enabled=scripts) as operator:
        page = await operator.look("/ui/workers")
        row = page.locator("tr", has_text="elsewhere:7")
        async with page.expect_navigation():
            await row.get_by_role("button", name="Drain").click()
        assert await operator.said() == "elsewhere:7 takes no more, finishes what it has, and ends."
        assert re.search(r"elsewhere:7\s+draining", await row.inner_text())
        await do(ledger, "DELETE FROM processes WHERE host = 'elsewhere'")
