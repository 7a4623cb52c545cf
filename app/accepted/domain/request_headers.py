r"""Two request headers, Idempotency-Key and Prefer, and the fingerprint of the request that a key stands for.

Idempotency-Key follows draft-ietf-httpapi-idempotency-key-header, whose value is a structured-field string (RFC 9651
section 3.3.3: `"abc"`, with `\"` and `\\`), and accepts Stripe's bare form. Both spellings name one key.

Unknown or malformed preferences of Prefer (RFC 7240) are ignored.
"""

import hashlib
import re
from typing import Any

from accepted.domain.json_text import ParsedJSON, canonical
from accepted.errors import MalformedRequest

MAX_KEY_LENGTH = 255  # Stripe's limit
FINGERPRINT_BYTES = 16  # compared only with the one fingerprint stored under the same key

MAX_WAIT = 60  # seconds; contract section 4. Proxies cut longer connections
_LONGEST_LINE = 1000  # characters; the pattern takes quadratic time on unclosed quotes

_VISIBLE = re.compile(r"[!-~]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPE = re.compile(r'\\(["\\])')

# A preference is the text between commas or semicolons; a quoted string may contain both.
_PART = re.compile(r'(?:[^,;"]|"(?:[^"\\]|\\.)*"|")+|[,;]')
_WAIT = re.compile(r'wait[ \t]*=[ \t]*(?:([0-9]+)|"([0-9]+)")', re.IGNORECASE)
_NAMES_WAIT = re.compile(r"wait[ \t]*(?:=|\Z)", re.IGNORECASE)


def read_key(values: list[str]) -> str | None:
    """The key in the Idempotency-Key `values` (one per header line); None without the header.

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


def fingerprint(method: str, path: str, body: ParsedJSON) -> bytes:
    """16 bytes, equal for equal requests: `body` is compared as JSON, not as bytes."""
    digest = hashlib.blake2b(f"{method} {path}\n".encode(), digest_size=FINGERPRINT_BYTES)
    digest.update(canonical(body))
    return digest.digest()


class LinesFingerprint:
    """The fingerprint of an NDJSON request; each line is compared as JSON."""

    def __init__(self, method: str, path: str) -> None:
        self._digest = hashlib.blake2b(f"{method} {path} by lines\n".encode(), digest_size=FINGERPRINT_BYTES)

    def add(self, line: ParsedJSON) -> None:
        self._digest.update(canonical(line))
        self._digest.update(b"\n")

    def digest(self) -> bytes:
        return self._digest.digest()


class MembersFingerprint(LinesFingerprint):
    """The fingerprint of a body whose `jobs` are added one by one; `body` has them, too, and is compared as JSON."""

    def __init__(self, method: str, path: str, body: dict[str, Any]) -> None:
        options = canonical({name: value for name, value in body.items() if name != "jobs"})
        super().__init__(method, f"{path} {options.decode()}")


def read_wait(values: list[str]) -> int | None:
    """Seconds (0 to 60) of `wait` in the Prefer `values` (one per header line); None if it is absent or malformed.

    Of several `wait` only the first counts, even when it is malformed (RFC 7240 section 2).
    """
    for preference in _preferences(values):
        if _NAMES_WAIT.match(preference):
            return _seconds(preference)
    return None


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    quoted = _QUOTED.fullmatch(value)
    if quoted is None:
        raise MalformedRequest("Idempotency-Key is not a well-formed quoted string")
    return _ESCAPE.sub(r"\1", quoted[1])


def _preferences(values: list[str]) -> list[str]:
    """The preferences in order, each without its `;` parameters."""
    found = []
    for value in values:
        if len(value) > _LONGEST_LINE:
            continue
        is_parameter = False
        for part in _PART.findall(value):
            if part in (",", ";"):
                is_parameter = part == ";"
            elif not is_parameter:
                found.append(part.strip(" \t"))
    return found


def _seconds(preference: str) -> int | None:
    wait = _WAIT.fullmatch(preference)
    if wait is None:
        return None
    digits = (wait[1] or wait[2]).lstrip("0") or "0"
    return MAX_WAIT if len(digits) > len(str(MAX_WAIT)) else min(int(digits), MAX_WAIT)
