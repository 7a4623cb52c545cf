"""`email.send` against a real mail server: what arrives, at whom and how often, and the outcome of each reply."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from accepted.domain.failures import AuthError, HandlerError, InvalidJob, TargetTimeout, TransientError
from accepted.domain.job import Job
from accepted.domain.network.servers import SmtpServer
from accepted_worker.handlers.email import Email, deliver
from accepted_worker.outbound import smtp
from accepted_worker.outbound.mail import Mail
from tests.support.servers import mail_server
from tests.support.servers.mail_server import USER, MailServer
from tests.support.servers.ports import free_port

ID = uuid4()
FROM = "noreply@shop.example"


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's certificate, signed by an authority that this process trusts."""
    file, context = mail_server.authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return context


@pytest.fixture
async def server(certificates: ssl.SSLContext) -> AsyncIterator[MailServer]:
    async with mail_server.serving(certificates) as running:
        yield running


def url(port: int, scheme: str = "smtp", password: str = "pass%3Aw%40rd") -> str:
    return f"{scheme}://{USER}:{password}@localhost:{port}"


async def send(url: str | None, *, id: UUID = ID, attempt: int = 1, **payload: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    job = Job(
        id=id, tenant="t", type="email.send", queue="q", status="running", priority=4, attempt=attempt,
        max_attempts=3, payload="{}", created_at=now, run_at=now,
    )  # fmt: skip
    mail = Mail(SmtpServer.parse(url) if url else None, FROM, ["@Shop.example"])
    email = {"to": ["jane@example.com"], "subject": "Hello", "text": "Hi.\n", **payload}
    return await deliver(Email.model_validate(email), job, mail)


async def test_what_arrives(server: MailServer) -> None:
    result = await send(
        url(server.port),
        **{"from": "Shöp, Inc <shop@shop.example>"},
        to=["Jane, D <jane@example.com>", "joe@example.com"],
        cc=["cc@example.com"],
        bcc=["bcc@example.com", "joe@example.com"],
        reply_to="help@shop.example",
        subject="Grüße " + "und mehr " * 40,
        text="Hällo\n.\n..\n" + "x" * 3000,
        html="<p>Hällo</p>",
        headers={"X-Order": "17", "References": "<a@b>"},
        attachments=[{"name": "ü.pdf", "content": "AP8KDQ==", "content_type": "application/pdf"}],
    )
    everybody = ["jane@example.com", "joe@example.com", "cc@example.com", "bcc@example.com"]
    assert result == {"message_id": f"<{ID}@shop.example>", "accepted": everybody, "refused": {}}
    (received,) = server.received
    message = received.message
    assert received.encrypted
    assert (received.sender, received.recipients) == ("shop@shop.example", everybody)
    assert message["Message-ID"] == result["message_id"]
    assert (message["From"].addresses[0].display_name, message["X-Order"]) == ("Shöp, Inc", "17")
    assert message["To"].addresses[0].display_name == "Jane, D"
    assert "bcc@example.com" not in message.as_string()
    assert message["Subject"].strip() == ("Grüße " + "und mehr " * 40).strip()
    assert abs((datetime.now(UTC) - message["Date"].datetime).total_seconds()) < 60
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert plain.get_content().replace("\r\n", "\n") == "Hällo\n.\n..\n" + "x" * 3000 + "\n"
    assert html.get_content().strip() == "<p>Hällo</p>"
    (attachment,) = message.iter_attachments()
    assert (attachment.get_filename(), attachment.get_content()) == ("ü.pdf", b"\x00\xff\n\r")


REPLIES = [
    ({"to": ["550.x@example.com"]}, InvalidJob, "550"),
    ({"to": ["552.x@example.com", "550.y@example.com"]}, InvalidJob, "55"),
    *(({"to": [f"{code}.x@example.com"]}, TransientError, str(code)) for code in (421, 450, 451, 452)),
    ({"to": ["550.x@example.com", "451.y@example.com"]}, TransientError, "451"),
    ({"from": "550.x@shop.example"}, InvalidJob, "550"),
    ({"from": "451.x@shop.example"}, TransientError, "451"),
    *(({"from": f"{code}.x@shop.example"}, AuthError, str(code)) for code in (530, 535)),
    ({"from": "data554.x@shop.example"}, InvalidJob, "554"),
    ({"from": "data452.x@shop.example"}, TransientError, "452"),
]


@pytest.mark.parametrize(("payload", "kind", "says"), REPLIES, ids=lambda value: str(value))
async def test_the_reply_decides(
    server: MailServer, payload: dict[str, Any], kind: type[HandlerError], says: str
) -> None:
    with pytest.raises(kind, match=says) as failure:
        await send(url(server.port), **payload)
    assert type(failure.value) is kind
    assert server.received == []


async def test_who_is_refused_for_good_is_named_and_the_others_get_it(server: MailServer) -> None:
    result = await send(url(server.port), to=["jane@example.com"], cc=["550.x@example.com"])
    assert result["accepted"] == ["jane@example.com"]
    assert result["refused"] == {"550.x@example.com": "550 says the server"}
    assert [received.recipients for received in server.received] == [["jane@example.com"]]


async def test_who_is_refused_for_now_makes_all_wait_and_nobody_gets_it_twice(server: MailServer) -> None:
    both = ["jane@example.com", "451once.x@example.com"]
    with pytest.raises(TransientError):
        await send(url(server.port), to=both)
    assert server.received == []
    await send(url(server.port), to=both, attempt=2)
    assert [received.recipients for received in server.received] == [both]


async def test_the_last_attempt_leaves_out_who_is_still_refused(server: MailServer) -> None:
    result = await send(url(server.port), to=["jane@example.com", "451.x@example.com"], attempt=3)
    assert (result["accepted"], list(result["refused"])) == (["jane@example.com"], ["451.x@example.com"])
    assert len(server.received) == 1


async def test_a_message_whose_answer_was_lost_comes_again_as_the_same(server: MailServer) -> None:
    for attempt in (1, 2):
        with pytest.raises(TransientError):
            await send(url(server.port), **{"from": "hangup.x@shop.example"}, attempt=attempt)
    first, second = server.received
    assert first.message["Message-ID"] == second.message["Message-ID"]


async def test_a_wrong_password_is_for_the_operator_to_mend(server: MailServer) -> None:
    with pytest.raises(AuthError, match="535"):
        await send(url(server.port, password="wrong"))
    with pytest.raises(AuthError, match="ACCEPTED_SMTP_URL"):
        await send(None)


async def test_tls_from_the_first_byte(certificates: ssl.SSLContext) -> None:
    async with mail_server.serving(certificates, implicit=True) as server:
        await send(url(server.port, "smtps"))
    assert len(server.received) == 1


async def test_without_tls_only_where_the_operator_says_so() -> None:
    async with mail_server.serving(None) as server:
        with pytest.raises(TransientError, match="STARTTLS"):
            await send(f"smtp://localhost:{server.port}")
        assert server.received == []
        await send(f"smtp+plain://localhost:{server.port}")
    assert [received.encrypted for received in server.received] == [False]


async def test_a_certificate_of_nobody_we_know(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(TransientError, match=r"(?i)certificate"):
        await send(url(server.port))
    assert server.received == []


async def test_nobody_there_and_nobody_answering(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransientError):
        await send(url(free_port()))
    monkeypatch.setattr(smtp, "STEP_SECONDS", 0.3)
    held: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    with pytest.raises(TargetTimeout):
        await send(url(silent.sockets[0].getsockname()[1]))
    for writer in held:
        writer.close()
    silent.close()


async def test_a_sender_is_needed() -> None:
    email = Email.model_validate({"to": ["a@b.example"], "subject": "", "text": ""})
    now = datetime.now(UTC)
    job = Job(
        id=ID, tenant="t", type="email.send", queue="q", status="running", priority=4, attempt=1, max_attempts=3,
        payload="{}", created_at=now, run_at=now,
    )  # fmt: skip
    with pytest.raises(InvalidJob, match="ACCEPTED_SMTP_FROM"):
        await deliver(email, job, Mail(None, None))
