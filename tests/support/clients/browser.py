"""People at the pages of the dashboard, in headless Chromium, which Debian packages (`make servers`)."""

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, Response, async_playwright

CHROMIUM = shutil.which("chromium")

AXE = Axe()

VIOLATIONS = "options => axe.run(document, options).then(found => found.violations)"

SERIOUS = frozenset({"serious", "critical"})
"""The impact that axe-core gives to a fault."""

ALL_RULES: Any = {"resultTypes": ["violations"]}

CONTRAST: Any = {"runOnly": ["color-contrast"], "resultTypes": ["violations"]}
"""The rule of axe-core that depends on the colours."""

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

    def __init__(self, url: str, context: BrowserContext, page: Page, scripts: bool) -> None:
        self.url = url
        self.context = context
        self.page = page
        self.scripts = scripts
        self.wrong: list[str] = []
        self.refused: set[int] = set()
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

    async def press(self, name: str | re.Pattern[str], status: int = 200, which: int = 0) -> Page:
        """A button or a link by its text, and the page to which it leads. `which`: of several on the page."""
        found = self.page.get_by_role("button", name=name, exact=True)
        if not await found.count():
            found = self.page.get_by_role("link", name=name, exact=True)
        async with self.page.expect_navigation() as led:
            await found.nth(which).click()
        answer = await led.value
        await self.check(answer, status)
        return self.page

    async def ask(self, name: str | re.Pattern[str], status: int = 200, which: int = 0) -> str:
        """Press what leads to a page that asks first, or that refuses. What it says; everybody can use it."""
        page = await self.press(name, status, which)
        await self.check_usable()
        return await page.inner_text("main")

    async def type(self, **typed: str) -> None:
        """Fill in fields by the first words of their labels; `_` stands for a space."""
        for label, text in typed.items():
            await self.page.get_by_label(re.compile("^" + label.replace("_", " "))).first.fill(text)

    async def said(self) -> str:
        """What the last act has answered."""
        return await self.page.inner_text(".notice[role=status]:not([hidden])")

    async def check(self, answer: Response, status: int) -> None:
        assert answer.status == status, f"{answer.url} {answer.status}"
        if status >= 400:
            self.refused.add(status)
        counted = {name: await self.page.locator(name).count() for name in ("main", "h1", "header nav")}
        assert counted == {"main": 1, "h1": 1, "header nav": 1}, answer.url
        assert (await self.page.title()).endswith(" · Accepted")
        assert "unsafe" not in answer.headers["content-security-policy"]

    async def faults(self, colours: Literal["light", "dark"] | None = None, options: Any = ALL_RULES) -> list[str]:
        """What of this page is hard to use for some people, as far as axe-core finds it."""
        if colours is not None:
            await self.page.emulate_media(color_scheme=colours)
        if not await self.page.evaluate("typeof axe === 'object'"):
            await self.page.evaluate(AXE.axe_script)
        found: Any = await self.page.evaluate(VIOLATIONS, options)
        return [
            f"{self.page.url}: {one['id']}: {one['nodes'][0]['html'][:200]}"
            for one in found
            if one["impact"] in SERIOUS
        ]

    async def check_usable(self) -> None:
        """Nothing is hard to use in light or in dark. axe-core is a script: without scripts it is not asked."""
        if self.scripts:
            assert await self.faults("light") + await self.faults("dark", CONTRAST) == []

    async def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        wide: int = await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return wide

    def unexpected(self) -> list[str]:
        """What went wrong, but for the refusals that were expected: the console notes them, too."""
        known = tuple(f"the server responded with a status of {status}" for status in self.refused)
        return [said for said in self.wrong if not any(one in said for one in known)]

    def _check_address(self, url: str) -> None:
        if not url.startswith((self.url + "/", "data:")):
            self.wrong.append(f"a request to {url}")


@asynccontextmanager
async def person(browser: Browser, url: str, key: str = "", **options: Any) -> AsyncIterator[Person]:
    """Signed in with the key. `options` are those of a browser context. Nothing may have gone wrong at the end."""
    context = await browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    somebody = Person(url, context, await context.new_page(), options.get("java_script_enabled", True))
    if key:
        await somebody.sign_in(key)
    yield somebody
    await context.close()
    assert somebody.unexpected() == []
