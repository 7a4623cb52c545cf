"""How a job is referred to: by a message on the broker before it runs, by a lease while it runs."""

import base64
import binascii
import re
from uuid import UUID

import msgspec

VERSION = 1

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_TOKEN = re.compile(r"[A-Za-z0-9_-]{48}")


class JobRef(msgspec.Struct, frozen=True):
    """A reference to a job on its way to a worker (contract section 7). `attempt` counts the attempts so far."""

    job_id: UUID
    attempt: int
    queue: str
    type: str
    priority: int
    traceparent: str | None = None

    @property
    def message_id(self) -> str:
        return f"{self.job_id}:{self.attempt}"

    @property
    def trace(self) -> str:
        """The job's W3C traceparent; for a job without one, an unsampled traceparent made from its id."""
        return self.traceparent or f"00-{self.job_id.hex}-{self.job_id.hex[16:]}-00"

    def body(self) -> bytes:
        return b'{"v":%d,"id":"%b","attempt":%d}' % (VERSION, str(self.job_id).encode(), self.attempt)


def is_traceparent(value: str) -> bool:
    """Whether `value` is a W3C traceparent of the form of version 00, with ids that are not all zero."""
    return _TRACEPARENT.fullmatch(value) is not None


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace id in a valid traceparent."""
    return traceparent[3:35] if traceparent and is_traceparent(traceparent) else None


class MessageBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a message."""

    v: int
    id: UUID
    attempt: int


_decoder = msgspec.json.Decoder(MessageBody)


def read_body(body: bytes) -> MessageBody | None:
    """The reference in a message; None if it is not JSON, has another shape or an unknown version."""
    try:
        found = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if found.v == VERSION and 0 <= found.attempt < 2**31 else None


class Lease(msgspec.Struct, frozen=True):
    """The fence of every write by an attempt: the job, the attempt and the worker that must still hold it."""

    job_id: UUID
    attempt: int
    worker_id: UUID

    @property
    def token(self) -> str:
        """The lease as an HTTP worker holds it: 48 characters. Only the worker's id in it is secret."""
        raw = self.job_id.bytes + self.attempt.to_bytes(4, "big") + self.worker_id.bytes
        return base64.urlsafe_b64encode(raw).decode()


def read_token(token: str) -> Lease | None:
    """The lease that `token` stands for; None if it is not a token."""
    if not _TOKEN.fullmatch(token):
        return None
    try:
        raw = base64.urlsafe_b64decode(token)
    except binascii.Error:
        return None
    attempt = int.from_bytes(raw[16:20], "big")
    return Lease(UUID(bytes=raw[:16]), attempt, UUID(bytes=raw[20:])) if 0 < attempt < 2**31 else None
