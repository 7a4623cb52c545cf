"""Identifiers: UUIDv7 (RFC 9562), whose first 48 bits are the Unix time in milliseconds."""

from datetime import UTC, datetime
from uuid import UUID

from uuid_utils.compat import uuid7

__all__ = ["age_of", "floor_at", "new_id"]


def new_id() -> UUID:
    """A new UUIDv7, rising within this process."""
    return uuid7()


def age_of(job_id: UUID, now: datetime) -> float | None:
    """Seconds since the id was made; None if it is not a UUIDv7."""
    if job_id.version != 7:
        return None
    return now.timestamp() - (job_id.int >> 80) / 1000


def floor_at(moment: datetime) -> UUID:
    """The smallest UUIDv7 of `moment`: smaller ids are older."""
    millis = max(0, int(moment.astimezone(UTC).timestamp() * 1000))
    return UUID(int=(millis & (2**48 - 1)) << 80 | 0x7 << 76 | 0b10 << 62)
