"""What all pages of the dashboard have in common: sessions, forms, headers, prefixes, and that it can be taken away."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import Receive, Scope, Send

from accepted.api.app import create_app
from accepted.dashboard.entrance import SESSION
from accepted.services import keys
from accepted.settings import Settings
from tests.support.clients.form_browser import FormBrowser, hidden_lists
from tests.support.ledger.jobs import put
from tests.support.ledger.sql import do, rows
from tests.support.service.http_app import HttpApp, http_app

ROOT = "/team/jobs-service"


@asynccontextmanager
async def served(engine: AsyncEngine, url: str, **settings: Any) -> AsyncIterator[HttpApp]:
    async with http_app(engine, url, **settings) as app:
        yield app


@pytest.fixture
async def app(engine: AsyncEngine, database_url: str) -> AsyncIterator[HttpApp]:
    async with served(engine, database_url) as app:
        yield app


async def test_a_session_is_that_of_its_key(app: HttpApp, engine: AsyncEngine) -> None:
    browser = FormBrowser(app)
    refused = await browser.get("/?span=day")
    assert (refused.status_code, refused.headers["location"]) == (303, "/ui/sign-in?next=%2F%3Fspan%3Dday")
    assert (await browser.sign_in("acc_wrong")).status_code == 403
    before = browser.http.cookies[SESSION]

    key_id, key = await keys.create(engine, "acme", "Ann", ["jobs:read"])
    entered = await browser.send(refused.headers["location"], "/ui/sign-in", key=key, next="/?span=day")
    assert (entered.status_code, entered.headers["location"]) == (303, "/?span=day")
    cookie = entered.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Max-Age=43200", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert browser.http.cookies[SESSION] != before, "a token that was known before signing in is none of a session"
    page = await browser.get("/")
    assert page.status_code == 200
    assert all(part in page.text for part in ("<title>", "<nav", "<main", "Ann"))
    (stored,) = await rows(engine, "SELECT hash FROM sessions")
    assert stored["hash"] == keys.hash_key(browser.http.cookies[SESSION].encode())

    await keys.revoke(engine, key_id)
    app.state.keys.forget()
    assert (await browser.get("/")).status_code == 303


async def test_a_link_from_elsewhere_ends_no_session(app: HttpApp, engine: AsyncEngine) -> None:
    """The browser keeps a strict cookie back, and sends it once the page has loaded itself again."""
    _, key = await keys.create(engine, "acme", "Ann", ["jobs:read"])
    browser = FormBrowser(app)
    await browser.sign_in(key)
    kept = browser.http.cookies[SESSION]
    browser.http.cookies.delete(SESSION)
    for path in ("/ui/workers", "/ui/sign-in"):
        page = await browser.http.get(path, headers={"sec-fetch-site": "cross-site"})
        assert (page.status_code, "set-cookie" in page.headers) == (200, False)
        assert '<meta http-equiv="refresh" content="0">' in page.text
    browser.http.cookies.set(SESSION, kept)
    assert (await browser.get("/ui/workers")).status_code == 200
    unknown = await browser.get("/ui/nonsense")
    assert (unknown.status_code, "<nav" in unknown.text) == (404, True)


async def test_a_session_ends(app: HttpApp, engine: AsyncEngine) -> None:
    _, key = await keys.create(engine, "acme", "Ann", ["jobs:read"])
    leaving, staying = FormBrowser(app), FormBrowser(app)
    await leaving.sign_in(key)
    await staying.sign_in(key)
    kept = leaving.http.cookies[SESSION]
    assert (await leaving.send("/", "/ui/sign-out")).headers["location"] == "/ui/sign-in"
    leaving.http.cookies.set(SESSION, kept)
    assert (await leaving.get("/")).status_code == 303
    assert (await staying.get("/")).status_code == 200
    await do(engine, "UPDATE sessions SET expires_at = now()")
    assert (await staying.get("/")).status_code == 303


@pytest.mark.parametrize("wanted", ["//evil.example/", "https://evil.example/", "/\\evil.example", "evil", "/a\nb"])
async def test_after_signing_in_one_stays_here(app: HttpApp, engine: AsyncEngine, wanted: str) -> None:
    _, key = await keys.create(engine, "acme", "Ann", ["jobs:read"])
    browser = FormBrowser(app)
    assert (await browser.send("/ui/sign-in", "/ui/sign-in", key=key, next=wanted)).headers["location"] == "/"


@pytest.mark.parametrize("auth", ["off", "required"])
async def test_a_form_of_another_page_does_not_count(engine: AsyncEngine, database_url: str, auth: str) -> None:
    async with served(engine, database_url, auth=auth) as app:
        browser = FormBrowser(app, "http://localhost")
        if auth == "required":
            await browser.sign_in((await keys.create(engine, "acme", "Ann", ["jobs:read"]))[1])
        page, out = "/", "/ui/sign-out"
        await browser.get(page)
        assert (await browser.http.post(out, data={"csrf": "wrong"})).status_code == 403
        assert (await browser.http.post(out)).status_code == 403
        if auth == "required":
            for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://x"}):
                assert (await browser.send(page, out, headers)).status_code == 403
            assert (await browser.get("/")).status_code == 200
            sent = {"Sec-Fetch-Site": "same-origin", "Origin": "https://name-at-the-proxy"}
            assert (await browser.send(page, out, sent)).status_code == 303


async def test_headers_of_every_page(app: HttpApp) -> None:
    browser = FormBrowser(app)
    answers = [await browser.get(path) for path in ("/", "/ui/sign-in", "/ui/static/none.css")]
    assert [answer.status_code for answer in answers] == [303, 200, 404]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert "style=" not in answers[1].text
    linked = re.findall(r'"(/ui/static/[^"]+)"', answers[1].text)
    assert len(linked) == 3
    for path in linked:
        static = await browser.get(path)
        assert (static.status_code, "immutable" in static.headers["cache-control"]) == (200, True)


async def test_it_is_served_under_a_prefix(engine: AsyncEngine, database_url: str) -> None:
    async with served(engine, database_url, root_path=ROOT, trusted_proxies="0.0.0.0/0") as app:
        browser = FormBrowser(app, "https://api", **{"X-Forwarded-Proto": "https"})
        typed = await browser.get(f"{ROOT}?span=day")
        assert (typed.status_code, typed.headers["location"]) == (308, f"{ROOT}/?span=day")
        away = await browser.get(f"{ROOT}/")
        assert away.headers["location"] == f"{ROOT}/ui/sign-in"
        _, key = await keys.create(engine, "acme", "Ann", ["jobs:read"])
        entered = await browser.send(f"{ROOT}/ui/sign-in", f"{ROOT}/ui/sign-in", key=key, next="/?span=day")
        assert entered.headers["location"] == f"{ROOT}/?span=day"
        assert {f"Path={ROOT}/", "Secure"} <= set(entered.headers["set-cookie"].split("; "))
        page = await browser.get(f"{ROOT}/")
        assert page.status_code == 200
        paths = re.findall(r'(?:href|src|action|data-events)="(/[^"]*)"', page.text)
        assert paths
        assert not [path for path in paths if not path.startswith(ROOT)]


async def test_services_of_one_host_have_cookies_of_their_own(engine: AsyncEngine, database_url: str) -> None:
    """Those of a browser are for all ports, and those of `/` for each prefix. Whoever signs in here stays in there."""
    async with served(engine, database_url) as one, served(engine, database_url, root_path="/b") as other:
        _, key = await keys.create(engine, "acme", "Ann", ["jobs:read"])
        names = []
        for app, port, path in ((one, 8000, ""), (one, 8001, ""), (other, 8000, "/b")):
            browser = FormBrowser(app, f"http://api:{port}")
            assert (await browser.send(f"{path}/ui/sign-in", f"{path}/ui/sign-in", key=key)).status_code == 303
            assert (await browser.get(f"{path}/ui/workers")).status_code == 200
            names += list(browser.http.cookies)
        assert names == ["accepted_session_8000", "accepted_session_8001", "accepted_session_8000_b"]


async def test_what_was_typed_outlives_the_session(app: HttpApp, engine: AsyncEngine) -> None:
    _, key = await keys.create(engine, "acme", "Ann", ["admin", "jobs:read", "jobs:write"])
    browser = FormBrowser(app)
    await browser.sign_in(key)
    await do(engine, "UPDATE sessions SET expires_at = now()")
    sent = {"name": '<b>"CI"</b>', "scopes": ["jobs:read", "jobs:write"], "csrf": "of the former session"}
    ended = await browser.http.post("/ui/keys", data=sent)
    assert (ended.status_code, "Your session has ended" in ended.text) == (403, True)
    wrong = await browser.http.post("/ui/sign-in", data=hidden_lists(ended.text) | {"key": "acc_wrong"})
    assert wrong.status_code == 403
    again = await browser.http.post("/ui/sign-in", data=hidden_lists(wrong.text) | {"key": key})
    assert (again.status_code, 'action="/ui/keys"' in again.text) == (200, True)
    assert len(await rows(engine, "SELECT 1 AS one FROM api_keys")) == 1, "nothing is done before the person says so"
    assert (await browser.http.post("/ui/keys", data=hidden_lists(again.text))).status_code == 201
    (made,) = await rows(engine, "SELECT name, scopes FROM api_keys WHERE name <> 'Ann'")
    assert tuple(made.values()) == ('<b>"CI"</b>', ["jobs:read", "jobs:write"])


async def test_a_form_without_a_session_from_elsewhere_is_not_kept(app: HttpApp) -> None:
    sent = await FormBrowser(app).http.post("/ui/keys", data={"name": "x"}, headers={"Sec-Fetch-Site": "cross-site"})
    assert (sent.status_code, sent.headers["location"]) == (303, "/ui/sign-in")


async def test_a_query_may_have_any_bytes(engine: AsyncEngine, database_url: str) -> None:
    """httpx would encode them; other clients do not."""
    async with served(engine, database_url) as app, served(engine, database_url, auth="off") as everyones:
        (job,) = await put(engine, tenant="default")
        for path in ("/", "/ui/jobs", "/ui/webhooks", "/ui/sign-in", f"/ui/jobs/{job}", "/ui/keys", "/ui/audit"):
            answer = await raw_query(app, path)
            assert answer.status_code == (200 if path == "/ui/sign-in" else 303)
            if answer.status_code == 303:
                assert answer.headers["location"] == f"/ui/sign-in?{urlencode({'next': f'{path}?span=%FF%25&tag=%E9'})}"
            assert (await raw_query(everyones, path)).status_code in (200, 303), path


async def raw_query(app: HttpApp, path: str) -> httpx.Response:
    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        await app.application({**scope, "query_string": b"span=\xff%25&tag=\xe9"}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(asked), base_url="http://localhost") as http:
        return await http.get(path)


async def test_it_can_be_taken_away(engine: AsyncEngine, database_url: str) -> None:
    async with served(engine, database_url, dashboard="off") as app:
        browser = FormBrowser(app)
        assert [(await browser.get(path)).status_code for path in ("/", "/ui/sign-in", "/ui/events")] == [404] * 3


async def test_without_keys_nobody_signs_in(engine: AsyncEngine, database_url: str) -> None:
    async with served(engine, database_url, auth="off") as app:
        browser = FormBrowser(app, "http://localhost")
        page = await browser.get("/")
        assert page.status_code == 200
        assert "Sign out" not in page.text
        assert (await browser.get("/ui/sign-in")).headers["location"] == "/"


@pytest.mark.parametrize(("auth", "status"), [("off", 200), ("required", 503)])
async def test_pages_say_that_the_ledger_is_away(auth: str, status: int) -> None:
    """Who has a session is not known then, so only what concerns everybody is told."""
    app = create_app(Settings(database_url="postgresql://127.0.0.1:1/nothing", auth=auth))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", cookies={SESSION: "x"}
    ) as http:
        page = await http.get("/")
        assert page.status_code == status
        assert "ledger" in page.text
        assert ("There are no figures" in page.text) == (auth == "off")
        assert page.headers["content-security-policy"]
    await app.state.accepted.engine.dispose()
