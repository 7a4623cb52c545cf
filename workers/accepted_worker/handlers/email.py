"""The job type `email.send`: one message (RFC 5322), handed to the operator's mail server.

A value cannot become a header of its own: the JSON Schema and the model refuse control characters, all other line
ends of Python, and encoded words, which could hide them.

Recipients that the server refuses for good are named in the result, and the others get the message. If it refuses one
for now, nobody gets the message and the job is retried, so that no retry sends it to anyone twice; only the last
attempt leaves such recipients out.
"""

import re
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema, model_validator

from accepted import Context, job
from accepted.context import MailServer
from accepted.domain.failures import InvalidJob
from accepted.domain.job import Job
from accepted.domain.network.servers import ADDRESS, MAILBOX, MAX_ADDRESS
from accepted.payload_types import Base64

MAX_RECIPIENTS = 100
"""In each of to, cc and bcc. A server must take 100 in all (RFC 5321, 4.5.3.1.8), and may take more."""

MAX_LINE = 900
"""Characters of a subject or a header value; 998 is a line's limit (RFC 5322, 2.1.1), and names take some."""

MAX_HEADERS = 50
MAX_ATTACHMENTS = 50
MAX_NAME = 200

# Everything but C0, DEL, C1 and the two separators of Unicode: `str.splitlines` breaks at no other character.
_TEXT = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]"
_ENCODED_WORD = r"=\?"
_NAMED = rf"[^\x00-\x1f\x7f-\x9f\u2028\u2029<>\"=]{{1,{MAX_NAME}}} <{MAILBOX}>"

HEADER_NAME = (
    "^(?:[Xx]-[A-Za-z0-9-]{1,60}|List-(?:Help|Id|Unsubscribe|Unsubscribe-Post)|In-Reply-To|References"
    "|Auto-Submitted|Precedence|Importance)$"
)
"""Headers that a job may set: none that says where the mail goes, whom it is from or how it is to be read."""

CONTENT_TYPE = "^(?:application|audio|font|image|model|text|video)/[A-Za-z0-9][A-Za-z0-9.+_-]{0,100}$"

POLICY = SMTP.clone(cte_type="7bit")
"""CRLF, and only ASCII on the wire, so that every server can take it."""


def _no_encoded_word(text: str) -> str:
    if re.search(_ENCODED_WORD, text):
        raise ValueError("must not hold an encoded word (=?)")
    return text


def _checked_headers(headers: dict[str, str]) -> dict[str, str]:
    if not all(re.fullmatch(HEADER_NAME, name) for name in headers):
        raise ValueError("a header is not allowed")
    if not all(len(v) <= MAX_LINE and re.fullmatch(f"{_TEXT}*", _no_encoded_word(v)) for v in headers.values()):
        raise ValueError("a header value is not allowed")
    return headers


def _holds(name: str) -> dict[str, JsonValue]:
    """The schema of an object with this text; null does not count."""
    return {"required": [name], "properties": {name: {"type": "string"}}}


Mailbox = Annotated[str, Field(max_length=MAX_NAME + MAX_ADDRESS + 3, pattern=f"^(?:{MAILBOX}|{_NAMED})$")]
"""`jane@example.com` or `Jane Doe <jane@example.com>`."""

_LINE_SCHEMA = {"type": "string", "maxLength": MAX_LINE, "pattern": f"^{_TEXT}*$", "not": {"pattern": _ENCODED_WORD}}
Line = Annotated[
    str,
    Field(max_length=MAX_LINE, pattern=f"^{_TEXT}*$", json_schema_extra={"not": {"pattern": _ENCODED_WORD}}),
    AfterValidator(_no_encoded_word),
]
Headers = Annotated[
    dict[str, str],
    Field(max_length=MAX_HEADERS),
    AfterValidator(_checked_headers),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_HEADERS,
            "propertyNames": {"pattern": HEADER_NAME},
            "additionalProperties": _LINE_SCHEMA,
        }
    ),
]
Mailboxes = Annotated[list[Mailbox], Field(max_length=MAX_RECIPIENTS)]


class Attachment(BaseModel):
    """A file sent with the message."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Line, Field(min_length=1, max_length=MAX_NAME)]
    content: Base64
    content_type: str = Field("application/octet-stream", pattern=CONTENT_TYPE)


class Email(BaseModel):
    """One message, to all its recipients at once."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"anyOf": [_holds("text"), _holds("html")]})

    sender: Mailbox | None = Field(None, alias="from", description="Without it, ACCEPTED_SMTP_FROM of the worker.")
    to: Mailboxes = Field(min_length=1, description="`jane@example.com` or `Jane Doe <jane@example.com>`.")
    cc: Mailboxes = []
    bcc: Mailboxes = Field([], description="They get the message; no recipient sees their addresses.")
    reply_to: Mailbox | None = None
    subject: Line
    text: str | None = None
    html: str | None = Field(None, description="The same as `text`, as HTML.")
    headers: Headers = Field({}, description="X-…, List-…, In-Reply-To, References and a few more.")
    attachments: list[Attachment] = Field([], max_length=MAX_ATTACHMENTS)

    @model_validator(mode="after")
    def _has_a_body(self) -> Self:
        if self.text is None and self.html is None:
            raise ValueError("text or html is required")
        return self

    def recipients(self) -> list[str]:
        """The addresses of to, cc and bcc, each once, without names."""
        return list(dict.fromkeys(address_of(mailbox).addr_spec for mailbox in (*self.to, *self.cc, *self.bcc)))


def address_of(mailbox: str) -> Address:
    """The name and the address in a `Mailbox`."""
    if re.fullmatch(ADDRESS, mailbox):
        return Address(addr_spec=mailbox)
    name, _, address = mailbox.rpartition(" ")
    return Address(name, addr_spec=address[1:-1])


def compose(email: Email, sender: Address, message_id: str) -> bytes:
    """The message in bytes. `message_id` is without its angle brackets."""
    message = EmailMessage(POLICY)
    message["From"] = sender
    message["To"] = [address_of(mailbox) for mailbox in email.to]
    if email.cc:
        message["Cc"] = [address_of(mailbox) for mailbox in email.cc]
    if email.reply_to:
        message["Reply-To"] = address_of(email.reply_to)
    message["Subject"] = email.subject
    message["Date"] = datetime.now(UTC)
    message["Message-ID"] = f"<{message_id}>"
    for name, value in email.headers.items():
        message[name] = value
    _fill(message, email)
    return message.as_bytes()


def _fill(message: EmailMessage, email: Email) -> None:
    if email.text is not None:
        message.set_content(email.text)
        if email.html is not None:
            message.add_alternative(email.html, subtype="html")
    else:
        message.set_content(email.html, subtype="html")
    for attachment in email.attachments:
        kind, _, subtype = attachment.content_type.partition("/")
        message.add_attachment(attachment.content, kind, subtype, filename=attachment.name)


@job("email.send", timeout=300, description="Send an e-mail.")
async def email_send(payload: Email, ctx: Context) -> dict[str, Any]:
    """Send one message. Its result is that of `deliver`."""
    return await deliver(payload, ctx.job, ctx.mail)


async def deliver(email: Email, running: Job, mail: MailServer) -> dict[str, Any]:
    """Send the message. Result: `message_id`, `accepted` (addresses), `refused` (address to the server's text).

    The Message-ID is made of the job's id, so it is the same on every attempt: if the server's answer was lost and the
    message is sent again, a recipient can tell that it is the same message.
    """
    mailbox = email.sender or mail.sender
    if mailbox is None:
        raise InvalidJob("`from` is missing, and ACCEPTED_SMTP_FROM is not set")
    sender = address_of(mailbox)
    message_id = f"{running.id}@{sender.domain}"
    recipients = email.recipients()
    refused = await mail.send(
        sender.addr_spec,
        recipients,
        compose(email, sender, message_id),
        leave_out_busy=running.attempt >= running.max_attempts,
    )
    accepted = [address for address in recipients if address not in refused]
    return {"message_id": f"<{message_id}>", "accepted": accepted, "refused": refused}
