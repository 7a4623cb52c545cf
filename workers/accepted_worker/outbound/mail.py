"""Mail to the one server that the operator has set (`ACCEPTED_SMTP_URL`).

The address checks of `accepted_worker.outbound.egress` do not apply: a client's data cannot choose this server.
Certificates are checked against the system's store (OpenSSL's `SSL_CERT_FILE` names another). A message is
sent whole or not at all, so a retry sends it twice only if the server's answer was lost.
"""

import ssl
from collections.abc import Mapping, Sequence
from functools import cached_property

from accepted import extras
from accepted.domain.failures import AuthError, InvalidJob
from accepted.domain.network.servers import SmtpServer
from accepted.errors import ConfigurationError

Refused = Mapping[str, str]
"""Address to the server's text."""


class Mail:
    """The mail server of a worker. Each message has a connection of its own."""

    def __init__(self, server: SmtpServer | None, sender: str | None, allowed: Sequence[str] = ()) -> None:
        """Without a server every message fails. `sender` is the sender of mail without a `from`.

        `allowed` are the addresses, and the domains (`@example.com`), that mail may come from beside `sender`.

        Raises `ConfigurationError` for a server when the extra `email` is not installed.
        """
        if server is not None and not extras.installed("email"):
            raise ConfigurationError(f"ACCEPTED_SMTP_URL needs aiosmtplib: {extras.command('email')}")
        self.sender = sender
        self._allowed = {each.lower() for each in (*allowed, *([sender] if sender else []))}
        self._server = server

    async def send(self, sender: str, recipients: Sequence[str], message: bytes, *, leave_out_busy: bool) -> Refused:
        """Send one message (RFC 5322, ASCII). Returns the recipients that the server refused for good.

        If the server refuses a recipient for now, the message is sent to nobody, unless `leave_out_busy`. Raises
        `AuthError`, `InvalidJob` (also for a sender that is not allowed), `TargetTimeout` and `TransientError`.
        """
        if self._server is None:
            raise AuthError("no mail server is set (ACCEPTED_SMTP_URL)")
        self._check(sender)

        from accepted_worker.outbound import smtp  # here: it loads aiosmtplib, which few workers need

        tls = None if self._server.security == "none" else self._tls
        return await smtp.sent(self._server, tls, sender, recipients, message, leave_out_busy=leave_out_busy)

    def _check(self, sender: str) -> None:
        """The server takes the operator's credentials, so it does not check for which of its users a job speaks."""
        _, at, domain = sender.lower().rpartition("@")
        if not self._allowed & {sender.lower(), at + domain}:
            raise InvalidJob("`from` is neither ACCEPTED_SMTP_FROM nor in ACCEPTED_SMTP_FROM_ALLOW")

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()
