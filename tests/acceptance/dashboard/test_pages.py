"""Every page, with jobs and without, with scripts and without, for those who may act and those who may look."""

from collections.abc import Mapping
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.support.clients.browser import HOSTILE, person
from tests.support.clients.client import Client
from tests.support.service.running_service import Running
from tests.support.waiting import until

PAGES = [
    "/", "/?span=week", "/ui/jobs", "/ui/jobs?status=failed&error_class=transient", "/ui/queues", "/ui/queues/default",
    "/ui/dead-letters", "/ui/dead-letters?view=each", "/ui/schedules", "/ui/batches", "/ui/webhooks", "/ui/workers",
    "/ui/runbook",
]  # fmt: skip
"""Those that every key may see."""

FORMS = ["/ui/new-schedule", "/ui/submit", "/ui/submit?type=http.request", "/ui/keys", "/ui/audit"]
"""Those of a key that may act."""


OUT_OF_SIGHT = """
[...document.querySelectorAll("td.act button")].filter((one) => one.getBoundingClientRect().right > innerWidth)
    .map((one) => one.textContent)
"""
"""Buttons in rows of a table that one would have to scroll to."""


@pytest.mark.parametrize(("name", "scripts"), [("ann", True), ("ann", False), ("reader", True), ("bob", True)])
async def test_each_page(
    browser: Browser, trio: Running, people: Mapping[str, str], jobs: Mapping[str, Any], wholes: list[str], name: str,
    scripts: bool,
) -> None:  # fmt: skip
    """`bob` has no jobs. `ann` has a small, dark screen."""
    looks: dict[str, Any] = {"viewport": {"width": 360, "height": 800}, "color_scheme": "dark"} if name == "ann" else {}
    async with person(browser, trio.url, people[name], java_script_enabled=scripts, **looks) as somebody:
        paths = PAGES + ([] if name == "bob" else [f"/ui/jobs/{job['id']}" for job in jobs.values()] + wholes)
        paths += [] if name == "reader" else FORMS
        for path in paths:
            page = await somebody.look(path)
            if scripts:
                assert await somebody.faults() == []
                assert await somebody.overflow() <= 0, path
                assert await page.evaluate(OUT_OF_SIGHT) == [], path
                assert await page.evaluate("window.hacked") is None
            if name == "reader":
                assert await page.locator("main form[method=post] button").all_inner_texts() == []


async def test_texts_of_jobs_are_only_texts(
    browser: Browser, trio: Running, people: Mapping[str, str], jobs: Mapping[str, Any]
) -> None:
    async with person(browser, trio.url, people["ann"]) as ann:
        page = await ann.look(f"/ui/jobs/{jobs['succeeded']['id']}")
        shown = await page.inner_text("#payload")
        assert HOSTILE.replace('"', '\\"') in shown
        assert "100000000000000000" in shown
        page = await ann.look(f"/ui/jobs/{jobs['failed']['id']}")
        assert HOSTILE in await page.inner_text("main")
        page = await ann.look(f"/ui/jobs/{jobs['large']['id']}")
        assert "w" * 250_000 in await page.inner_text("#payload")


async def test_nobody_sees_the_jobs_of_others(
    browser: Browser, trio: Running, people: Mapping[str, str], jobs: Mapping[str, Any]
) -> None:
    async with person(browser, trio.url) as somebody:
        path = f"/ui/jobs/{jobs['failed']['id']}"
        page = await somebody.look(path)
        assert "/ui/sign-in?next=" in page.url
        await page.fill("#key", people["ann"])
        page = await somebody.press("Sign in")
        assert page.url.endswith(path)
        await somebody.press("Sign out")
        await somebody.sign_in(people["bob"])
        await somebody.look(path, 404)
        page = await somebody.look("/ui/jobs")
        assert await page.inner_text("#found") == "There are no jobs yet."
        await somebody.look("/ui/jobs/nothing", 404)
        page = await somebody.look("/ui/jobs?batch_id=nothing", 422)
        assert "batch_id" in await page.inner_text("[role=alert]")


async def test_an_open_page_keeps_up(browser: Browser, trio: Running, people: Mapping[str, str], ann: Client) -> None:
    """Without being loaded again, and without losing what the person has opened, selected or focused."""
    job = await ann.submit(delay=3600)
    async with person(browser, trio.url, people["ann"]) as somebody:
        page = await somebody.look(f"/ui/jobs/{job['id']}")
        await page.evaluate("window.before = true")
        await page.get_by_role("button", name="Cancel").focus()
        await ann.http.post(f"/jobs/{job['id']}/cancel")

        async def shown() -> bool:
            return await page.inner_text("#state") == "cancelled"

        await until(shown, 10, "the state on the open page")
        assert await page.evaluate("window.before"), "it was not loaded again"
        assert await page.get_by_role("button", name="Cancel", exact=True).count() == 0
        assert await page.get_by_role("button", name="Retry", exact=True).count() == 1
