"""A web page that somebody opens beside `accepted dev`: what the browser sends for it changes and reads nothing."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients.client import Client
from tests.support.service.echo_service import ask
from tests.support.service.running_service import Running, serving, types_known

READS = ["/webhook-secret", "/jobs", "/metrics", "/healthz", "/openapi.json", "/nowhere"]
WITHOUT_BODY = [
    "/webhook-secret/rotate", "/schedules/nightly/trigger", "/queues/default/lease", "/dead-letters/replay", "/jobs",
]  # fmt: skip


@pytest.fixture(scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    data: Path = tmp_path_factory.mktemp("dev")
    async with serving("", {"ACCEPTED_ALLOWED_HOSTS": "dev.box"}, dev=True, more=["--data-dir", str(data)]) as running:
        await types_known(running.client())
        yield running


def send(dev: Running, request_line: str, *fields: str, body: str = "") -> tuple[int, dict[str, str], Any]:
    """One request, byte for byte; the status, the fields and the JSON of its answer."""
    lines = [request_line, *fields, "Connection: close", f"Content-Length: {len(body)}", "", body]
    status, headers, answer = ask(int(dev.url.rpartition(":")[2]), "\r\n".join(lines).encode())
    return status, {name.lower(): value for name, value in headers.items()}, answer


def check(found: tuple[int, dict[str, str], Any], status: int, slug: str) -> None:
    assert found[0] == status, found
    assert json.loads(found[2])["type"] == f"/problems/{slug}"
    assert not [name for name in found[1] if name.startswith("access-control-")]


def host_of(dev: Running) -> str:
    return f"Host: {dev.url.removeprefix('http://')}"


@pytest.mark.fault("F75", moment="a name of the page leads to loopback")
@pytest.mark.parametrize("path", READS)
async def test_a_page_cannot_read_under_its_own_name(dev: Running, path: str) -> None:
    for host in ("evil.example", f"evil.example:{dev.url.rpartition(':')[2]}", "127.0.0.1.evil.example"):
        for method in ("GET", "OPTIONS"):
            found = send(dev, f"{method} {path} HTTP/1.1", f"Host: {host}", "Sec-Fetch-Site: same-origin")
            check(found, 421, "misdirected")
        head = await dev.client().http.head(path, headers={"host": host})
        assert (head.status_code, head.content) == (421, b"")


@pytest.mark.fault("F75", moment="a name of the page leads to loopback")
async def test_a_page_cannot_submit_under_its_own_name(dev: Running) -> None:
    body = json.dumps({"type": "http.request", "payload": {"url": "http://127.0.0.1:1/"}, "tags": ["of-a-page"]})
    fields = ("Host: evil.example", "Origin: http://evil.example", "Content-Type: application/json")
    check(send(dev, "POST /jobs HTTP/1.1", *fields, body=body), 421, "misdirected")
    check(send(dev, "POST /jobs HTTP/1.1", *fields, "X-Forwarded-Host: localhost", body=body), 421, "misdirected")
    assert (await dev.client().get("/jobs?tag=of-a-page")).json()["items"] == []


@pytest.mark.fault("F75", moment="a form or an image of the page")
@pytest.mark.parametrize(
    "said",
    ["Origin: http://evil.example", "Origin: null", "Origin: http://localhost:3000", "Sec-Fetch-Site: cross-site",
     "Sec-Fetch-Site: same-site"],
)  # fmt: skip
async def test_a_page_cannot_have_the_browser_act(dev: Running, said: str) -> None:
    client = dev.client()
    before = await _secret(client)
    for path in WITHOUT_BODY:
        check(send(dev, f"POST {path} HTTP/1.1", host_of(dev), said), 403, "cross-site")
    for path in READS:
        check(send(dev, f"GET {path} HTTP/1.1", host_of(dev), said), 403, "cross-site")
    for method in ("OPTIONS", "PUT", "PATCH", "DELETE"):
        check(send(dev, f"{method} /queues/default HTTP/1.1", host_of(dev), said), 403, "cross-site")
    assert await _secret(client) == before


@pytest.mark.fault("F75", moment="a request without Host, or with two")
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize(
    "hosts",
    [[], ["Host: localhost", "Host: localhost"], ["Host: localhost", "Host: evil.example"], ["Host:"],
     ["Host: a b"], ["Host: localhost, evil.example"], ["Host: localhost/x"]],
    ids=repr,
)  # fmt: skip
async def test_a_host_that_is_missing_doubled_or_no_host(dev: Running, version: str, hosts: list[str]) -> None:
    for target in ("GET /healthz", "POST /jobs", "GET /nowhere", "POST /jobs/"):
        check(send(dev, f"{target} {version}", *hosts), 400, "malformed-request")
    check(send(dev, f"GET http://evil.example/healthz {version}", "Host: localhost"), 400, "malformed-request")


@pytest.mark.fault("F75", moment="programs and pages of its own")
async def test_programs_and_its_own_pages_are_served(dev: Running) -> None:
    port = dev.url.rpartition(":")[2]
    for host in (
        f"localhost:{port}",
        f"127.0.0.1:{port}",
        "localhost",
        "[::1]",
        "127.0.0.2",
        "dev.box",
        f"DEV.BOX:{port}",
    ):
        for more in ((), (f"Origin: http://{host}", "Sec-Fetch-Site: same-origin"), ("Sec-Fetch-Site: none",)):
            for version in ("HTTP/1.1", "HTTP/1.0"):
                found = send(dev, f"GET /jobs {version}", f"Host: {host}", *more)
                assert found[0] == 200, (host, more, found)
    assert (await dev.client().finish("noop"))["status"] == "succeeded"


async def _secret(client: Client) -> Any:
    return (await client.get("/webhook-secret")).json()
