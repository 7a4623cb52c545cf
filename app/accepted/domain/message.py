"""The message on the broker (contract section 7): a reference to a job, never the job."""

from uuid import UUID

import msgspec

VERSION = 1


class JobRef(msgspec.Struct, frozen=True):
    """Says: this job, which has run `attempt` times so far, should be with a worker now."""

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
        """The W3C traceparent of the job: the one it came with, or one made from its id (sampled: no)."""
        return self.traceparent or f"00-{self.job_id.hex}-{self.job_id.hex[16:]}-00"

    def body(self) -> bytes:
        return b'{"v":%d,"id":"%b","attempt":%d}' % (VERSION, str(self.job_id).encode(), self.attempt)


class MessageBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body as it is read back. A version that we do not know is not ours to guess at."""

    v: int
    id: UUID
    attempt: int


_decoder = msgspec.json.Decoder(MessageBody)


def read_body(body: bytes) -> MessageBody | None:
    """The reference in a message, or None when it is none: not JSON, another shape, an unknown version."""
    try:
        found = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if found.v == VERSION and 0 <= found.attempt < 2**31 else None
