"""The fence of everything that an attempt writes."""

import base64
import binascii
import re
from uuid import UUID

import msgspec

_TOKEN = re.compile(r"[A-Za-z0-9_-]{48}")


class Lease(msgspec.Struct, frozen=True):
    """Which attempt of which job, and which worker runs it. Good for as long as the ledger agrees with all three."""

    job_id: UUID
    attempt: int
    worker_id: UUID

    @property
    def token(self) -> str:
        """The lease as a client holds it: 48 characters, of which only the worker's id cannot be guessed."""
        raw = self.job_id.bytes + self.attempt.to_bytes(4, "big") + self.worker_id.bytes
        return base64.urlsafe_b64encode(raw).decode()


def read_token(token: str) -> Lease | None:
    """The lease that `token` stands for; None if it stands for none."""
    if not _TOKEN.fullmatch(token):
        return None
    try:
        raw = base64.urlsafe_b64decode(token)
    except binascii.Error:
        return None
    attempt = int.from_bytes(raw[16:20], "big")
    return Lease(UUID(bytes=raw[:16]), attempt, UUID(bytes=raw[20:])) if 0 < attempt < 2**31 else None
