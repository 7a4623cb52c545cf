r"""The Idempotency-Key header and the fingerprint of the request that it stands for.

The header follows draft-ietf-httpapi-idempotency-key-header, whose value is a structured-field string
(RFC 9651 section 3.3.3: `"abc"`, with `\"` and `\\`), and Stripe's habit of sending the key bare. Both
spellings name one key. Which tenant a key belongs to is decided where it is stored.
"""

import hashlib
import re

from accepted.domain.json_text import ParsedJSON, canonical
from accepted.errors import MalformedRequest

MAX_KEY_LENGTH = 255  # Stripe's limit
FINGERPRINT_BYTES = 16  # only ever compared with the one fingerprint stored under the same key

_VISIBLE = re.compile(r"[!-~]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPE = re.compile(r'\\(["\\])')


def read_key(values: list[str]) -> str | None:
    """The key that the header's `values` (one per header line) name; None without the header.

    Raises MalformedRequest unless it is one key of 1 to 255 visible ASCII characters.
    """
    if not values:
        return None
    if len(values) > 1:
        raise MalformedRequest("more than one Idempotency-Key header")
    key = _unquoted(values[0].strip(" \t"))
    if len(key) > MAX_KEY_LENGTH or _VISIBLE.fullmatch(key) is None:
        raise MalformedRequest(f"Idempotency-Key must be 1 to {MAX_KEY_LENGTH} visible ASCII characters")
    return key


class LinesFingerprint:
    """The fingerprint of a request whose body comes line by line, each a JSON value, compared as such."""

    def __init__(self, method: str, path: str) -> None:
        self._digest = hashlib.blake2b(f"{method} {path} by lines\n".encode(), digest_size=FINGERPRINT_BYTES)

    def add(self, line: ParsedJSON) -> None:
        self._digest.update(canonical(line))
        self._digest.update(b"\n")

    def digest(self) -> bytes:
        return self._digest.digest()


def fingerprint(method: str, path: str, body: ParsedJSON) -> bytes:
    """The same 16 bytes for the same request: `body` is compared as JSON, not as bytes."""
    digest = hashlib.blake2b(f"{method} {path}\n".encode(), digest_size=FINGERPRINT_BYTES)
    digest.update(canonical(body))
    return digest.digest()


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    quoted = _QUOTED.fullmatch(value)
    if quoted is None:
        raise MalformedRequest("Idempotency-Key is not a well-formed quoted string")
    return _ESCAPE.sub(r"\1", quoted[1])
