"""Mail in the name of others: who a job of `email.send` may say that it is from."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.support.clients.client import Client
from tests.support.servers import mail_server
from tests.support.servers.mail_server import MailServer
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.running_service import serving, types_known

pytestmark = pytest.mark.fault("F88", moment="a job of email.send names its sender")

EMAIL = {"to": ["jane@example.com"], "subject": "Your password", "text": "Send it to us."}


@pytest.fixture(scope="module")
async def mail() -> AsyncIterator[MailServer]:
    async with mail_server.serving(None) as server:
        yield server


@pytest.fixture(scope="module")
async def client(database_server: DatabaseServer, database_template: str, mail: MailServer) -> AsyncIterator[Client]:
    name = f"senders_{uuid4().hex}"
    env = {
        "ACCEPTED_HANDLERS": "accepted_worker.handlers,tests.support.handlers.process_tools",
        "ACCEPTED_SMTP_URL": f"smtp+plain://localhost:{mail.port}",
        "ACCEPTED_SMTP_FROM": "noreply@shop.example",
        "ACCEPTED_SMTP_FROM_ALLOW": "help@shop.example,@news.example",
    }
    async with serving(database_server.create_database(name, template=database_template), env, dev=True) as running:
        client = running.client()
        await types_known(client)
        yield client
    database_server.drop_database(name)


@pytest.mark.parametrize(
    "sender",
    ["boss@shop.example", "Help <boss@shop.example>", "a@sub.news.example", "a@evilnews.example", "noreply@x.example"],
)
async def test_mail_in_the_name_of_others_is_refused_at_once(client: Client, mail: MailServer, sender: str) -> None:
    before = len(mail.received)
    job = await client.finish("email.send", {**EMAIL, "from": sender})
    assert (job["status"], job["attempt"], job["error"]["class"]) == ("failed", 1, "invalid")
    assert "ACCEPTED_SMTP_FROM_ALLOW" in job["error"]["message"]
    assert len(mail.received) == before


@pytest.mark.parametrize(
    ("given", "envelope"),
    [
        ({}, "noreply@shop.example"),
        ({"from": "Shop <NoReply@Shop.example>"}, "NoReply@Shop.example"),
        ({"from": "help@shop.example"}, "help@shop.example"),
        ({"from": "The News <week-4@news.example>"}, "week-4@news.example"),
    ],
)
async def test_mail_from_who_is_allowed_is_sent(
    client: Client, mail: MailServer, given: dict[str, str], envelope: str
) -> None:
    job = await client.finish("email.send", {**EMAIL, **given})
    assert job["status"] == "succeeded", job
    assert mail.received[-1].sender == envelope
    assert mail.received[-1].message["From"].addresses[0].addr_spec == envelope


async def test_a_handler_in_a_process_has_the_same_senders(client: Client, mail: MailServer) -> None:
    before = len(mail.received)
    refused = await client.finish("use.async", {"do": "mail", "arg": "boss@shop.example"})
    assert (refused["status"], refused["error"]["class"]) == ("failed", "invalid")
    allowed = await client.finish("use.async", {"do": "mail", "arg": "week-5@news.example"})
    assert allowed["status"] == "succeeded", allowed
    assert [each.sender for each in mail.received[before:]] == ["week-5@news.example"]
