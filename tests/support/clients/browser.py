"""People at the pages of the dashboard, in headless Chromium, which Debian packages (`make servers`)."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, Response, async_playwright

CHROMIUM = shutil.which("chromium")

SERIOUS = frozenset({"serious", "critical"})
"""The impact that axe-core gives to a fault."""


HOSTILE = '</script><script>hacked = 1</script>"><img src=x onerror="hacked = 1">{{ 7 * 7 }}'
"""Text that does harm where it is not escaped."""

_ports = iter(range(2, 100))

PATIENCE = 15_000
"""Milliseconds for whatever a page does."""


def nowhere() -> str:
    """A URL at which nobody listens, another one each time: a host that fails is held for a while."""
    return f"http://127.0.0.1:{next(_ports)}/"


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


class Person:
    """Somebody with an API key at the pages of `url`. Notes every error of the console and every foreign request."""

    def __init__(self, url: str, context: BrowserContext, page: Page) -> None:
        self.url = url
        self.context = context
        self.page = page
        self.wrong: list[str] = []
        page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda sent: self._check_address(sent.url))

    async def sign_in(self, key: str) -> None:
        await self.look("/ui/sign-in")
        await self.page.fill("#key", key)
        page = await self.press("Sign in")
        assert "/ui/sign-in" not in page.url

    async def look(self, path: str, status: int = 200) -> Page:
        """A page, which has what every page has."""
        answer = await self.page.goto(self.url + path)
        assert answer is not None
        await self.check(answer, status)
        return self.page

    async def press(self, name: str, status: int = 200) -> Page:
        """A button or a link by its text, and the page to which it leads."""
        found = self.page.get_by_role("button", name=name, exact=True)
        if not await found.count():
            found = self.page.get_by_role("link", name=name, exact=True)
        async with self.page.expect_navigation() as led:
            await found.first.click()
        answer = await led.value
        await self.check(answer, status)
        return self.page

    async def said(self) -> str:
        """What the last act has answered."""
        return await self.page.inner_text(".notice[role=status]:not([hidden])")

    async def check(self, answer: Response, status: int) -> None:
        assert answer.status == status, f"{answer.url} {answer.status}"
        if status >= 400:
            self.wrong = [said for said in self.wrong if "the server responded with a status of" not in said]
        counted = {name: await self.page.locator(name).count() for name in ("main", "h1", "header nav")}
        assert counted == {"main": 1, "h1": 1, "header nav": 1}, answer.url
        assert (await self.page.title()).endswith(" · Accepted")
        assert "unsafe" not in answer.headers["content-security-policy"]

    async def faults(self) -> list[str]:
        """What of this page is hard to use for some people, as far as axe-core finds it."""
        found: Any = await Axe().run(self.page)
        return [
            f"{self.page.url}: {one['id']}: {one['nodes'][0]['html'][:200]}"
            for one in found.response["violations"]
            if one["impact"] in SERIOUS
        ]

    async def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        wide: int = await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return wide

    def _check_address(self, url: str) -> None:
        if not url.startswith((self.url + "/", "data:")):
            self.wrong.append(f"a request to {url}")


@asynccontextmanager
async def person(browser: Browser, url: str, key: str = "", **options: Any) -> AsyncIterator[Person]:
    """Signed in with the key. `options` are those of a browser context. Nothing may have gone wrong at the end."""
    context = await browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    somebody = Person(url, context, await context.new_page())
    if key:
        await somebody.sign_in(key)
    yield somebody
    await context.close()
    assert somebody.wrong == []
