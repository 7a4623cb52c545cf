"""Opaque cursors of lists: where to go on, tied to the tenant and to the filters that the list was asked for with."""

import base64
import hashlib
import hmac
from uuid import UUID

_CHECK_BYTES = 8


def write(last: UUID, scope: str) -> str:
    """A cursor that goes on after `last` in the list that `scope` names."""
    return base64.urlsafe_b64encode(last.bytes + _check(last, scope)).decode()


def read(cursor: str, scope: str) -> UUID:
    """Raises `ValueError` for a cursor that was tampered with, or made for another list."""
    raw = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
    if len(raw) != 16 + _CHECK_BYTES:
        raise ValueError("not a cursor")
    last = UUID(bytes=raw[:16])
    if not hmac.compare_digest(raw[16:], _check(last, scope)):
        raise ValueError("a cursor of another list")
    return last


def _check(last: UUID, scope: str) -> bytes:
    return hashlib.blake2b(last.bytes + scope.encode(), digest_size=_CHECK_BYTES).digest()
