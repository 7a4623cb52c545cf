"""A browser without scripts, in the test's own process. It follows no redirect, and sends the forms of pages."""

import re
from html import unescape

import httpx

from accepted.services import keys
from tests.support.service.http_app import HttpApp


class FormBrowser:
    """A person's browser without scripts, at the pages of `app`."""

    def __init__(self, app: HttpApp, base: str = "http://api", **headers: str) -> None:
        transport = httpx.ASGITransport(app.application)
        self.http = httpx.AsyncClient(transport=transport, base_url=base, headers=headers)

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(path)

    async def send(
        self, page: str, action: str, headers: dict[str, str] | None = None, **fields: str
    ) -> httpx.Response:
        """A form of `page`, with the token that is in it."""
        found = re.search(r'name="csrf" value="([^"]+)"', (await self.get(page)).text)
        assert found, page
        return await self.http.post(action, data={"csrf": found[1], **fields}, headers=headers)

    async def sign_in(self, key: str, path: str = "/ui/sign-in") -> httpx.Response:
        return await self.send(path, "/ui/sign-in", key=key)

    async def text(self, path: str) -> str:
        """A page that is there."""
        answer = await self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text


async def signed_in(app: HttpApp, *scopes: str, tenant: str = "t") -> FormBrowser:
    """The browser of somebody with a key of these scopes."""
    browser = FormBrowser(app)
    await browser.sign_in((await keys.create(app.engine, tenant, "Ann", list(scopes)))[1])
    return browser


def hidden_lists(page: str) -> dict[str, list[str]]:
    """All hidden fields of the forms in the main part of a page, with its token."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page.partition("<main")[2]):
        found.setdefault(name, []).append(unescape(value))
    return found


def hidden_fields(page: str) -> dict[str, str]:
    """Those of the form of a page that asks whether one is sure, without its token."""
    found = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    return {name: value for name, value in found.items() if name != "csrf"}
