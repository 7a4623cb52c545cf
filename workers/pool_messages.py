"""What a worker and its child processes say to each other: JSON with its length in front, over a socket pair.

The child speaks only when spoken to: `Setup` is answered by `Ready`, `Run` by any number of `Progressed` and then
one `Returned` or `Raised`.
"""

import struct

import msgspec

from app.domain.failures import FailureClass
from app.domain.job import Job
from app.domain.smtp import SmtpServer

LENGTH = struct.Struct("!I")
"""In front of each message, in bytes."""


class Setup(msgspec.Struct, frozen=True, tag=True):
    """What a child needs to know once: where its handlers are, and what a worker knows from its settings."""

    modules: tuple[str, ...]
    egress_allow: str
    smtp_server: SmtpServer | None
    smtp_sender: str | None
    max_result_bytes: int


class Run(msgspec.Struct, frozen=True, tag=True):
    """One attempt."""

    job: Job


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The handlers are loaded."""


class Progressed(msgspec.Struct, frozen=True, tag=True):
    """The handler has called `ctx.progress`; `value` is JSON text, as the ledger keeps it."""

    value: str


class Returned(msgspec.Struct, frozen=True, tag=True):
    """The handler has returned; `result` is JSON."""

    result: msgspec.Raw


class Raised(msgspec.Struct, frozen=True, tag=True):
    """The handler has raised."""

    failure_class: FailureClass
    message: str
    retry_after: float | None
    traceback: str | None


ToChild = Setup | Run
ToWorker = Ready | Progressed | Returned | Raised


def encode(message: ToChild | ToWorker) -> bytes:
    """The whole frame."""
    body = msgspec.json.encode(message)
    return LENGTH.pack(len(body)) + body
