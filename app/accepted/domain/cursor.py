"""Opaque cursors of lists: where to go on, tied to the tenant and to the filters that the list was asked for with."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

_CHECK_BYTES = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def write(last: UUID, scope: str) -> str:
    """A cursor that goes on after `last` in the list that `scope` names."""
    return _seal(last.bytes, scope)


def read(cursor: str, scope: str) -> UUID:
    """Raises `ValueError` for a cursor that was tampered with, or made for another list."""
    return UUID(bytes=_open(cursor, 16, scope))


def write_moment(at: datetime, last: UUID, scope: str) -> str:
    """The same for a list that is sorted by time first."""
    return _seal(((at - _EPOCH) // _MICROSECOND).to_bytes(8, "big") + last.bytes, scope)


def read_moment(cursor: str, scope: str) -> tuple[datetime, UUID]:
    """Raises as `read` does."""
    raw = _open(cursor, 24, scope)
    try:
        return _EPOCH + int.from_bytes(raw[:8], "big") * _MICROSECOND, UUID(bytes=raw[8:])
    except OverflowError:
        raise ValueError("not a cursor of ours") from None


def write_text(last: str, scope: str) -> str:
    """The same for a list that is sorted by a name."""
    return _seal(last.encode(), scope)


def read_text(cursor: str, scope: str) -> str:
    """Raises as `read` does."""
    text = _open(cursor, None, scope).decode()
    if "\0" in text:  # the check holds off accidents, not people
        raise ValueError("not a cursor of ours")
    return text


def _seal(position: bytes, scope: str) -> str:
    return base64.urlsafe_b64encode(position + _check(position, scope)).decode()


def _open(cursor: str, length: int | None, scope: str) -> bytes:
    position = base64.urlsafe_b64decode(cursor.encode("ascii"))[:-_CHECK_BYTES]
    if length is not None and len(position) != length:
        raise ValueError("not a cursor")
    if _seal(position, scope) != cursor:  # the text, not its bytes: base64 has several texts for the same
        raise ValueError("a cursor of another list")
    return position


def _check(position: bytes, scope: str) -> bytes:
    return hashlib.blake2b(position + scope.encode(), digest_size=_CHECK_BYTES).digest()
