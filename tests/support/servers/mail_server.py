"""A real SMTP server (aiosmtpd) whose answers are scripted by the addresses that it is given.

An address whose local part starts with a reply code (`550.jane@example.com`) gets that reply; `451once.` gets it the
first time only. A sender's does the same for MAIL, and `data554.` for the end of DATA; `hangup.` gets no answer there.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

USER, PASSWORD = "shop", "pass:w@rd"


@dataclass
class Received:
    """One message as it arrived."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    encrypted: bool


@dataclass
class MailServer:
    """What is running, and what it has received."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    greeted: set[str] = field(default_factory=set)

    def reply(self, address: str, command: str = "") -> str:
        found = re.match(rf"{command}(\d\d\d)(once)?\.", address)
        if not found or (found[2] and address in self.greeted):
            return "250 OK"
        self.greeted.add(address)
        return f"{found[1]} says the server"

    async def handle_MAIL(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        reply = self.reply(address)
        envelope.mail_from = address if reply.startswith("250") else None
        return reply

    async def handle_RCPT(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        reply = self.reply(address)
        if reply.startswith("250"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        reply = self.reply(envelope.mail_from, "data")
        if reply.startswith("250"):
            message = message_from_bytes(envelope.content, policy=policy.default)
            self.received.append(
                Received(envelope.mail_from, envelope.rcpt_tos, message, session.ssl is not None)  # type: ignore[arg-type]
            )
        if envelope.mail_from.startswith("hangup."):
            server.transport.abort()
        return reply


def authority(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """The file of a private authority's certificate, and a server's context with one that it has signed."""
    made = trustme.CA()
    file = directory / "authority.pem"
    made.cert_pem.write_to_path(str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert("localhost").configure_cert(context)
    return file, context


@asynccontextmanager
async def serving(context: ssl.SSLContext | None, *, implicit: bool = False) -> AsyncIterator[MailServer]:
    """STARTTLS and a password required where there is a `context`, TLS from the first byte if `implicit`."""
    state = MailServer()

    def check(server: SMTP, session: Any, envelope: Any, mechanism: str, given: LoginPassword) -> AuthResult:
        right = (given.login, given.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=right, handled=False)  # a 235, or a 535

    def protocol() -> SMTP:
        secured = {
            "tls_context": None if implicit else context,
            "require_starttls": not implicit,
            "authenticator": check,
            "auth_required": True,
            "auth_require_tls": not implicit,
        }
        return SMTP(state, hostname="localhost", **(secured if context else {}))

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, ssl=context if implicit else None)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
