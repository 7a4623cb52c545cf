"""Opaque cursors of lists. A cursor names the last item of a page.

It is valid only for the `scope` that it was made for: the tenant and the filters of the list.
"""

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

_CHECK_BYTES = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def write(last: UUID, scope: str) -> str:
    """A cursor that continues after `last`."""
    return _seal(last.bytes, scope)


def read(cursor: str, scope: str) -> UUID:
    """Raises `ValueError` for a cursor that was changed or made for another list."""
    return UUID(bytes=_open(cursor, 16, scope))


def write_moment(at: datetime, last: UUID, scope: str) -> str:
    """A cursor for a list that is sorted by time, then by id."""
    return _seal(((at - _EPOCH) // _MICROSECOND).to_bytes(8, "big") + last.bytes, scope)


def read_moment(cursor: str, scope: str) -> tuple[datetime, UUID]:
    """Raises as `read` does."""
    raw = _open(cursor, 24, scope)
    try:
        return _EPOCH + int.from_bytes(raw[:8], "big") * _MICROSECOND, UUID(bytes=raw[8:])
    except OverflowError:
        raise ValueError("not a cursor of ours") from None


def write_number(last: int, scope: str) -> str:
    """A cursor for a list that is sorted by a number from 0 to 2**31 - 1."""
    return _seal(last.to_bytes(4, "big"), scope)


def read_number(cursor: str, scope: str) -> int:
    """Raises as `read` does."""
    number = int.from_bytes(_open(cursor, 4, scope), "big")
    if number >= 2**31:
        raise ValueError("not a cursor of ours")
    return number


def write_line(attempt: int, number: int, scope: str) -> str:
    """A cursor for a log, which is sorted by attempt and line, from 0 to 2**31 - 1 and to 2**63 - 1."""
    return _seal(attempt.to_bytes(4, "big") + number.to_bytes(8, "big"), scope)


def read_line(cursor: str, scope: str) -> tuple[int, int]:
    """Raises as `read` does."""
    raw = _open(cursor, 12, scope)
    attempt, number = int.from_bytes(raw[:4], "big"), int.from_bytes(raw[4:], "big")
    if attempt >= 2**31 or number >= 2**63:
        raise ValueError("not a cursor of ours")
    return attempt, number


def write_text(last: str, scope: str) -> str:
    """A cursor for a list that is sorted by name."""
    return _seal(last.encode(), scope)


def read_text(cursor: str, scope: str) -> str:
    """Raises as `read` does."""
    text = _open(cursor, None, scope).decode()
    if "\0" in text:  # the check stops mistakes, not forgery
        raise ValueError("not a cursor of ours")
    return text


def _seal(position: bytes, scope: str) -> str:
    return base64.urlsafe_b64encode(position + _check(position, scope)).decode()


def _open(cursor: str, length: int | None, scope: str) -> bytes:
    position = base64.urlsafe_b64decode(cursor.encode("ascii"))[:-_CHECK_BYTES]
    if length is not None and len(position) != length:
        raise ValueError("not a cursor")
    if _seal(position, scope) != cursor:  # compared as text, because several base64 texts decode to the same bytes
        raise ValueError("a cursor of another list")
    return position


def _check(position: bytes, scope: str) -> bytes:
    return hashlib.blake2b(position + scope.encode(), digest_size=_CHECK_BYTES).digest()
