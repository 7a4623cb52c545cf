"""ACCEPTED_ROOT_PATH and X-Forwarded-*: links lead back through the proxy, and only trusted proxies are believed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.api.http.middleware import ProxyHeaders
from accepted.domain.ids import link
from tests.support.ledger.dead_letters import fail
from tests.support.service.http_app import http_app

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1"))
ROOT = "/team/jobs-service"
PROBLEM = "application/problem+json"


@asynccontextmanager
async def served(engine: AsyncEngine, url: str, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client that connects from 127.0.0.1, as the proxy does. Problems are not checked for unprefixed types."""
    async with http_app(engine, url, **settings) as app:
        client = (await app.client()).http
        client.event_hooks = {}
        yield client


@pytest.fixture
async def prefixed(engine: AsyncEngine, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with served(engine, database_url, root_path=ROOT) as client:
        yield client


def paths_of(value: Any) -> list[str]:
    """Every text in the JSON that looks like a path."""
    if isinstance(value, dict):
        return [path for one in value.values() for path in paths_of(one)]
    if isinstance(value, list):
        return [path for one in value for path in paths_of(one)]
    return [value] if isinstance(value, str) and value.startswith("/") else []


SCHEDULE = {"cron": "0 0 1 1 *", "job": {"type": "noop"}}


async def answers(client: httpx.AsyncClient, engine: AsyncEngine, under: str) -> list[httpx.Response]:
    """One answer of each kind that has links, from a proxy that keeps the prefix `under`, or removes it ("")."""
    job = await client.post(f"{under}/jobs", json={"type": "noop", "delay": 60})
    job_id = job.json()["id"]
    await fail(engine)
    return [
        job,
        await client.get(f"{under}/jobs/{job_id}"),
        await client.post(f"{under}/jobs", json={"type": "noop", "delay": 60}),
        await client.get(f"{under}/jobs?limit=1"),
        await client.post(f"{under}/batches", json={"jobs": [{"type": "noop", "delay": 60}]}),
        await client.put(f"{under}/schedules/s", json=SCHEDULE),
        await client.get(f"{under}/schedules"),
        await client.post(f"{under}/schedules/s/trigger"),
        await client.get(f"{under}/dead-letters"),
        await client.post(f"{under}/jobs/{job_id}/cancel"),
        await client.post(f"{under}/jobs/{job_id}/cancel"),  # 409
        await client.get(f"{under}/jobs?limit=0"),  # 422
        await client.post(f"{under}/jobs", json={"type": "nop"}),  # 422, on the fast path
        await client.get(f"{under}/nowhere"),
        await client.delete(f"{under}/jobs"),  # 405
        await client.get(f"{under}/jobs", headers={"authorization": "Bearer x"}),
    ]


@pytest.mark.parametrize("under", ["", ROOT], ids=["removed", "kept"])
async def test_every_link_has_the_prefix(prefixed: httpx.AsyncClient, engine: AsyncEngine, under: str) -> None:
    found = await answers(prefixed, engine, under)
    assert [answer.status_code for answer in found] == [
        202, 200, 202, 200, 202, 201, 200, 202, 200, 202, 409, 422, 422, 404, 405, 401,
    ]  # fmt: skip
    for answer in found:
        links = [answer.headers[name] for name in ("location", "operation-location") if name in answer.headers]
        if "link" in answer.headers:
            links.append(answer.headers["link"].removeprefix("<"))
        body = answer.json()
        links += paths_of({name: value for name, value in body.items() if name not in ("detail", "errors")})
        assert links, answer.request.url
        assert [path for path in links if not path.startswith(f"{ROOT}/")] == [], answer.request.url
        assert [path for path in links if f"{ROOT}{ROOT}" in path] == [], answer.request.url
        if answer.headers["content-type"] == PROBLEM:
            assert (await prefixed.get(body["type"])).status_code == 200


async def test_a_page_leads_to_the_next_through_the_proxy(prefixed: httpx.AsyncClient) -> None:
    for _ in range(3):
        await prefixed.post("/jobs", json={"type": "noop", "delay": 60})
    seen, target = [], "/jobs?limit=1"
    while target:
        page = await prefixed.get(target)
        seen += [job["id"] for job in page.json()["items"]]
        target = page.links.get("next", {}).get("url", "")
        assert not target or target.startswith(f"{ROOT}/jobs?")
    assert len(set(seen)) == 3


async def test_options_and_allow_know_the_prefix(prefixed: httpx.AsyncClient) -> None:
    for path in ("/jobs", f"{ROOT}/jobs"):
        assert (await prefixed.options(path)).headers["allow"] == "GET, HEAD, OPTIONS, POST"
        assert (await prefixed.delete(path)).headers["allow"] == "GET, HEAD, OPTIONS, POST"


async def test_openapi_names_the_prefix(prefixed: httpx.AsyncClient) -> None:
    document = (await prefixed.get("/openapi.json")).json()
    assert document["servers"] == [{"url": ROOT}]
    assert "/jobs" in document["paths"]


async def test_pages_link_under_the_prefix(prefixed: httpx.AsyncClient) -> None:
    index = (await prefixed.get("/problems")).text
    assert f'href="{ROOT}/problems/not-found"' in index
    assert f'href="{ROOT}/problems"' in (await prefixed.get(f"{ROOT}/problems/not-found")).text
    assert 'href="/problems' not in index


async def test_without_a_prefix_there_is_none(engine: AsyncEngine, database_url: str) -> None:
    async with served(engine, database_url) as client:
        job = await client.post("/jobs", json={"type": "noop", "delay": 60})
        assert job.headers["location"] == job.json()["links"]["self"] == f"/jobs/{job.json()['id']}"
        assert "servers" not in (await client.get("/openapi.json")).json()
        assert (await client.get(f"{ROOT}/jobs")).status_code == 404


FORWARDED = {
    "x-forwarded-prefix": "/other",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "jobs.example.com",
    "x-forwarded-for": "203.0.113.9",
}


async def seen_by(client: httpx.AsyncClient, **headers: str) -> tuple[str, Any]:
    """The Location of a new job, and the address of the client in the request log."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    with structlog.testing.capture_logs() as lines:
        answer = await client.post("/jobs", json={"type": "noop", "delay": 60}, headers=sent)
    assert answer.status_code == 202, answer.text
    (line,) = [line for line in lines if line["event"] == "request"]
    return answer.headers["location"].removesuffix(f"/jobs/{answer.json()['id']}"), line["client"]


@pytest.mark.parametrize("trusted", [(), (ip_network("10.0.0.0/8"),)], ids=["nobody", "others"])
async def test_who_is_not_trusted_is_not_believed(engine: AsyncEngine, database_url: str, trusted: Any) -> None:
    async with served(engine, database_url, root_path=ROOT, trusted_proxies=trusted) as client:
        assert await seen_by(client, **FORWARDED) == (ROOT, "127.0.0.1")


async def test_a_trusted_proxy_is_believed(engine: AsyncEngine, database_url: str) -> None:
    async with served(engine, database_url, root_path=ROOT, trusted_proxies=LOOPBACK) as client:
        assert await seen_by(client, **FORWARDED) == ("/other", "203.0.113.9")
        assert await seen_by(client) == (ROOT, "127.0.0.1"), "the setting holds where no proxy says otherwise"
        assert await seen_by(client, x_forwarded_prefix="/a, /b/") == ("/b", "127.0.0.1")
        for malformed in ("//evil.example", "https://evil.example", '/a>; rel="x"', "/a b", "/" + "a" * 200):
            assert await seen_by(client, x_forwarded_prefix=malformed) == (ROOT, "127.0.0.1")
        assert await seen_by(client, x_forwarded_prefix="/") == ("", "127.0.0.1"), "no prefix is a prefix, too"


def scope(**headers: str) -> dict[str, Any]:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http", "scheme": "http", "path": "/jobs", "raw_path": b"/jobs", "root_path": "",
        "client": ("::ffff:127.0.0.1", 5), "headers": [(b"host", b"internal:8000"), *given],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 127.0.0.3, 127.0.0.2", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("127.0.0.2", "127.0.0.2"),
        ("unknown, 127.0.0.2", "127.0.0.2"),
        ("_hidden", "::ffff:127.0.0.1"),
        ("", "::ffff:127.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_is_no_proxy(forwarded_for: str, client: str) -> None:
    """Whatever stands before it, the client may have made up."""
    one = scope(x_forwarded_for=forwarded_for)
    ProxyHeaders("", LOOPBACK).apply(one)
    assert one["client"][0] == client


@pytest.mark.parametrize(
    ("proto", "host", "scheme", "seen"),
    [
        ("https", "jobs.example.com", "https", b"jobs.example.com"),
        ("HTTPS", "jobs.example.com:8443", "https", b"jobs.example.com:8443"),
        ("https, http", "evil, [2001:db8::1]:80", "http", b"[2001:db8::1]:80"),
        ("ws", "a b", "http", b"internal:8000"),
        ("", "evil/path", "http", b"internal:8000"),
    ],
)
def test_scheme_and_host_are_those_that_the_client_used(proto: str, host: str, scheme: str, seen: bytes) -> None:
    one = scope(x_forwarded_proto=proto, x_forwarded_host=host)
    ProxyHeaders("", LOOPBACK).apply(one)
    assert (one["scheme"], dict(one["headers"])[b"host"]) == (scheme, seen)
    assert [name for name, _ in one["headers"]].count(b"host") == 1
    ignored = scope(x_forwarded_proto=proto, x_forwarded_host=host)
    ProxyHeaders("", ()).apply(ignored)
    assert (ignored["scheme"], dict(ignored["headers"])[b"host"]) == ("http", b"internal:8000")


def test_a_request_does_not_inherit_the_prefix_of_another() -> None:
    ProxyHeaders("", LOOPBACK).apply(scope(x_forwarded_prefix="/other"))
    assert link("/jobs") == "/other/jobs"
    ProxyHeaders("", LOOPBACK).apply(scope())
    assert link("/jobs") == "/jobs"
