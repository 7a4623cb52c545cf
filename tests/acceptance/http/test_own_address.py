"""Real processes behind a proxy: links have its prefix, in webhooks too, and idle connections are kept as set."""

import json
import socket
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.support.servers.postgres import DatabaseServer
from tests.support.servers.receiver import Receiver
from tests.support.service.running_service import Running, serving, types_known

ROOT = "/accepted"
KEEP_ALIVE = 2.0


@pytest.fixture(scope="module")
async def behind(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Running]:
    name = f"module_{uuid4().hex}"
    env = {
        "ACCEPTED_AUTH": "off",
        "ACCEPTED_ROOT_PATH": ROOT,
        "ACCEPTED_KEEP_ALIVE": str(KEEP_ALIVE),
        "ACCEPTED_TRUSTED_PROXIES": "127.0.0.1",
    }
    async with serving(database_server.create_database(name, template=database_template), env) as running:
        client = running.client()
        client.http.event_hooks = {}
        await types_known(client)
        yield running
    database_server.drop_database(name)


async def test_a_webhook_links_through_the_proxy(behind: Running, target: Receiver) -> None:
    client = behind.client()
    client.http.event_hooks = {}
    answer = await client.post({"type": "noop", "callback_url": target.url}, x_forwarded_prefix="/other")
    job_id = answer.json()["id"]
    assert answer.headers["location"] == answer.json()["links"]["self"] == f"/other/jobs/{job_id}"
    (call,) = await target.wait_for(1, 30)
    assert json.loads(call.body)["data"]["links"]["self"] == f"{ROOT}/jobs/{job_id}"
    request = next(line for line in behind.services["api"].log(200).splitlines() if '"route":"/jobs"' in line)
    assert json.loads(request)["client"] == "127.0.0.1"


def ask(behind: Running, sent: bytes) -> tuple[bytes, float]:
    """What one connection receives until the server closes it, and after how many seconds that is."""
    host, port = behind.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(sent)
        started = time.monotonic()
        found = b""
        while piece := sock.recv(65536):
            found += piece
        return found, time.monotonic() - started


@pytest.mark.parametrize("prefix", ["", ROOT], ids=["removed", "kept"])
def test_a_refusal_before_routing_has_the_prefix_once(behind: Running, prefix: str) -> None:
    found, _ = ask(behind, f"GET {prefix}/".encode() + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    problem = json.loads(found.partition(b"\r\n\r\n")[2])
    assert (problem["type"], problem["status"]) == (f"{ROOT}/problems/uri-too-long", 414)
    assert problem["instance"].startswith(f"{ROOT}/aaa")


def test_an_idle_connection_is_kept_as_long_as_set(behind: Running) -> None:
    found, seconds = ask(behind, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200")
    assert KEEP_ALIVE * 0.9 < seconds < KEEP_ALIVE + 5
