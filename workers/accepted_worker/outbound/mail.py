"""Mail to the one server that the operator has set (`ACCEPTED_SMTP_URL`).

The address checks of `accepted_worker.outbound.egress` do not apply: a client's data cannot choose this server.
Certificates are checked against the system's store (OpenSSL's `SSL_CERT_FILE` names another). A message is
sent whole or not at all, so a retry sends it twice only if the server's answer was lost.
"""

import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property

from accepted import extras
from accepted.domain.failures import AuthError, HandlerError, InvalidJob, TargetTimeout, TransientError
from accepted.domain.network.servers import SmtpServer
from accepted.errors import ConfigurationError

with suppress(ModuleNotFoundError):  # the extra `email`; without it, `Mail` takes no server
    import aiosmtplib

STEP_SECONDS = 30.0
"""Seconds for the server to answer one command. RFC 5321 (4.5.3.2) wants minutes; a slot cannot wait that long."""

GOODBYE_SECONDS = 2.0
"""Seconds for the answer to QUIT. The server has the message by then."""

CREDENTIALS = frozenset({530, 534, 535, 538})
"""Replies that reject the credentials or ask for other ones (RFC 4954, section 6)."""

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
        client = self._client(self._server)
        try:
            await client.connect()
            await client.mail(sender)
            refused = await _offer(client, recipients, leave_out_busy)
            await client.data(message)
            await _quit(client)
            return refused
        except aiosmtplib.SMTPResponseException as error:
            raise _failure_of(error.code, error.message) from error
        except TimeoutError as error:
            raise TargetTimeout("the mail server did not answer in time") from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise TransientError(f"no way to the mail server: {_one_line(str(error))}") from error
        finally:
            client.close()

    def _check(self, sender: str) -> None:
        """The server takes the operator's credentials, so it does not check for which of its users a job speaks."""
        _, at, domain = sender.lower().rpartition("@")
        if not self._allowed & {sender.lower(), at + domain}:
            raise InvalidJob("`from` is neither ACCEPTED_SMTP_FROM nor in ACCEPTED_SMTP_FROM_ALLOW")

    def _client(self, server: SmtpServer) -> "aiosmtplib.SMTP":
        return aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            local_hostname=socket.gethostname(),  # the library's default asks the DNS
            timeout=STEP_SECONDS,
            use_tls=server.security == "tls",
            start_tls=server.security == "starttls",
            tls_context=None if server.security == "none" else self._tls,
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()


async def _offer(client: "aiosmtplib.SMTP", recipients: Sequence[str], leave_out_busy: bool) -> Refused:
    refused: dict[str, aiosmtplib.SMTPRecipientRefused] = {}
    for recipient in recipients:
        try:
            await client.rcpt(recipient)
        except aiosmtplib.SMTPRecipientRefused as refusal:
            if _is_temporary(refusal.code) and not leave_out_busy:
                raise
            refused[recipient] = refusal
    if len(refused) == len(recipients):
        raise max(refused.values(), key=lambda refusal: _is_temporary(refusal.code))
    return {address: f"{refusal.code} {_one_line(refusal.message)}" for address, refusal in refused.items()}


async def _quit(client: "aiosmtplib.SMTP") -> None:
    with suppress(aiosmtplib.SMTPException, OSError):
        await client.quit(timeout=GOODBYE_SECONDS)


def _failure_of(code: int, message: str) -> HandlerError:
    said = f"the mail server answered {code}: {_one_line(message)}"
    if code in CREDENTIALS:
        return AuthError(said)
    return InvalidJob(said) if 500 <= code <= 599 else TransientError(said)


def _is_temporary(code: int) -> bool:
    return not 500 <= code <= 599


def _one_line(text: str) -> str:
    return " ".join(text.split())
