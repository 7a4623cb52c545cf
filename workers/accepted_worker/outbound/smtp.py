"""One message over SMTP, for `accepted_worker.outbound.mail`."""

import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress

import aiosmtplib

from accepted.domain.failures import AuthError, HandlerError, InvalidJob, TargetTimeout, TransientError
from accepted.domain.network.servers import SmtpServer

STEP_SECONDS = 30.0
"""Seconds for the server to answer one command. RFC 5321 (4.5.3.2) wants minutes; a slot cannot wait that long."""

GOODBYE_SECONDS = 2.0
"""Seconds for the answer to QUIT. The server has the message by then."""

CREDENTIALS = frozenset({530, 534, 535, 538})
"""Replies that reject the credentials or ask for other ones (RFC 4954, section 6)."""


async def sent(
    server: SmtpServer,
    tls: ssl.SSLContext | None,
    sender: str,
    recipients: Sequence[str],
    message: bytes,
    *,
    leave_out_busy: bool,
) -> Mapping[str, str]:
    """Returns and raises as `accepted_worker.outbound.mail.Mail.send` says. `tls` is None for a plain connection."""
    client = _client(server, tls)
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


def _client(server: SmtpServer, tls: ssl.SSLContext | None) -> aiosmtplib.SMTP:
    return aiosmtplib.SMTP(
        hostname=server.host,
        port=server.port,
        username=server.user,
        password=server.password,
        local_hostname=socket.gethostname(),  # the library's default asks the DNS
        timeout=STEP_SECONDS,
        use_tls=server.security == "tls",
        start_tls=server.security == "starttls",
        tls_context=tls,
    )


async def _offer(client: aiosmtplib.SMTP, recipients: Sequence[str], leave_out_busy: bool) -> Mapping[str, str]:
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


async def _quit(client: aiosmtplib.SMTP) -> None:
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
