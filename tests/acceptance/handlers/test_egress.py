"""The worker calls public addresses only: a name's addresses are checked when it connects. Contract, section 6.

A service of its own, which may call nothing that is not public; names of this machine play the attacker's DNS.
"""

import json
import socket
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.support.clients.client import Client
from tests.support.servers.postgres import DatabaseServer
from tests.support.servers.receiver import Receiver
from tests.support.service.running_service import serving, types_known


def a_name_of_this_machine() -> str:
    """A name that looks harmless and resolves to an address that is not public."""
    for name in (socket.gethostname(), "ip6-loopback", "ip6-localhost"):
        try:
            socket.getaddrinfo(name, 80)
        except OSError:
            continue
        if "localhost" not in name:
            return name
    pytest.skip("this machine has no name of its own that resolves")


@pytest.fixture(scope="module")
async def cautious(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Client]:
    name = f"cautious_{uuid4().hex}"
    url = database_server.create_database(name, template=database_template)
    async with serving(url, {"ACCEPTED_EGRESS_ALLOW": ""}, dev=True) as running:
        client = running.client()
        await types_known(client)
        yield client
    database_server.drop_database(name)


async def test_http_request_to_a_name_that_resolves_to_a_forbidden_address_is_invalid(cautious: Client) -> None:
    async with Receiver() as target:
        url = f"http://{a_name_of_this_machine()}:{target.port}/"
        job = await cautious.finish("http.request", {"url": url})
        assert (job["status"], job["attempt"], job["error"]["class"]) == ("failed", 1, "invalid")
        assert target.requests == []


async def test_a_webhook_to_such_a_name_is_a_delivery_that_failed_as_invalid(cautious: Client) -> None:
    async with Receiver() as receiver:
        url = f"http://{a_name_of_this_machine()}:{receiver.port}/"
        job = await cautious.finish("noop", callback_url=url)
        assert job["status"] == "succeeded"
        page = (await cautious.get("/jobs?type=webhook.deliver&include=payload")).json()["items"]
        (delivery,) = [each for each in page if job["id"] in json.dumps(each)]
        delivery = await cautious.finished(delivery["id"])
        assert (delivery["status"], delivery["attempt"], delivery["error"]["class"]) == ("failed", 1, "invalid")
        assert receiver.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "0.0.0.0", "127.1"])
async def test_loopback_by_its_spellings_is_never_called(cautious: Client, host: str) -> None:
    async with Receiver() as target:
        body = {"type": "http.request", "payload": {"url": f"http://{host}:{target.port}/"}}
        answer = await cautious.post(body)
        if answer.status_code != 422:
            job = await cautious.finished(answer.json()["id"])
            assert (job["status"], job["error"]["class"]) == ("failed", "invalid")
        assert target.requests == []
