"""Strict JSON: one reader, one canonical form, one writer; and which text may be a name.

The reader accepts RFC 8259 text in UTF-8 within the limits of I-JSON (RFC 7493), so that no body has two meanings.
Contract section 4 says which error is a 400 and which a 422. The result does not depend on the Python version, because
the nesting is measured before the C scanner recurses.

Every submission passes here. A usual body costs one C scan and a few searches over its bytes; only a body with a
suspicious match is checked value by value.

Numbers with a fraction or an exponent become doubles, as in nearly every JSON reader.
"""

import json
import re
from itertools import accumulate
from typing import Any, NoReturn, TypeAlias

import msgspec

from accepted.errors import FieldError, InvalidRequest, MalformedRequest

ParsedJSON: TypeAlias = "dict[str, Any] | list[Any] | str | int | float | bool | None"

MAX_DEPTH = 64  # levels of arrays and objects; no payload written by hand is deeper
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1  # what a `bigint`, a Go int64 and a Java long can hold

# Only 19 digits in a row or a three-digit exponent can be out of range: int64 has up to 19 digits, and with an exponent
# up to e99 a double overflows from 210 digits on.
_LONG_NUMBER = re.compile(rb"[0-9](?:[0-9]{18}|[eE]\+?[0-9]{3})")
# A NUL, or half of a surrogate pair. The decoded string shows whether the pair is whole.
_RISKY_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
LONGEST_SIGN = 20
"""Bytes of what the two patterns find."""
_QUOTED = re.compile(rb'"[^"]*"')
_TO_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: one level down, one level up
_BLOCK = 65536  # brackets counted between two checks of the depth
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
# A float without a fraction as `_SORTED` writes it: 1.0, 1e22. A match inside a string only costs time.
_INTEGRAL_FLOAT = re.compile(rb"[0-9](?:\.0|e\+?[0-9]+)[,\]}]|[0-9](?:\.0|e\+?[0-9]+)\Z")
JSON_WHITESPACE = " \t\r\n"
_BEYOND_INT64 = INT64_MAX + 1  # stands for every integer with too many digits to convert
_INT64_DIGITS = 20  # with the sign

# Control characters (C0, DEL, C1), line and paragraph separators, the embeddings, overrides and isolates by which text
# is shown in another order than it is stored (Unicode TR 36), and halves of surrogate pairs.
_NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_ENCODER = msgspec.json.Encoder()
_SORTED = msgspec.json.Encoder(order="sorted")


def parse(raw: bytes, *, one_line: bool = False) -> ParsedJSON:
    """The value of `raw`: a body, or with `one_line` a line, which errors then call "it".

    Raises MalformedRequest (not JSON in UTF-8, duplicate keys, lone surrogates, numbers that no double
    holds) or InvalidRequest (NUL in a string, nesting beyond 64, integers beyond int64).
    """
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        check_depth(raw)
    try:
        text = raw.decode("utf-8").rstrip(JSON_WHITESPACE)
    except UnicodeDecodeError:
        raise MalformedRequest(f"{subject(one_line)} is not UTF-8") from None
    suspicious = is_suspicious(raw)
    value = _scan(scanner(careful=suspicious), text, one_line)
    if suspicious:
        check_values(value, "")
    return value


def is_suspicious(raw: bytes) -> bool:
    """Whether the values of `raw` have to be checked one by one. A sign of it has up to `LONGEST_SIGN` bytes."""
    return _LONG_NUMBER.search(raw) is not None or (b"\\u" in raw and _RISKY_ESCAPE.search(raw) is not None)


def scanner(*, careful: bool) -> Any:
    """`scan(text, position)`: the value there and its end. With `careful` numbers of any length are read."""
    return _careful if careful else _quick


def encode(value: object) -> bytes:
    """JSON for an answer. Times become RFC 3339, UUIDs strings."""
    return _ENCODER.encode(value)


def canonical(value: ParsedJSON) -> bytes:
    """The same bytes for all values that are equal as JSON: keys sorted, no whitespace, 1.0 and 1e0 written 1.

    `value` must come from `parse`. An integer and a float that differ as doubles stay different.
    """
    text = _SORTED.encode(value)
    if _INTEGRAL_FLOAT.search(text) is not None:
        return _SORTED.encode(_integers(value))
    return text


def storable(text: str, limit: int) -> str:
    """The first `limit` characters of `text`; NUL and lone surrogates, which PostgreSQL refuses, are replaced."""
    return text[:limit].encode(errors="replace").decode().replace("\0", "�")


def is_printable(text: str) -> bool:
    """Whether `text` may be a name, a key or a tag.

    All that people write may be: letters of any script, combining marks, joiners, emoji and spaces, also those that
    this version of Python does not know yet.
    """
    return _NOT_IN_NAMES.search(text) is None


def escape_pointer(token: str) -> str:
    """`token` escaped for an RFC 6901 JSON pointer."""
    return token.replace("~", "~0").replace("/", "~1")


def _scan(scan: Any, text: str, one_line: bool) -> ParsedJSON:
    start = len(text) - len(text.lstrip(JSON_WHITESPACE))  # the C scanner skips whitespace only inside the value
    try:
        value, end = scan(text, start)
    except StopIteration as stop:
        raise malformed(text, stop.value, one_line) from None
    except json.JSONDecodeError as error:
        raise malformed(text, error.pos, one_line) from None
    if end != len(text):
        raise malformed(text, end, one_line)
    return value  # type: ignore[no-any-return]


def malformed(text: str, position: int, one_line: bool) -> MalformedRequest:
    """The error about the character at `position`."""
    if not text:
        return MalformedRequest(f"{subject(one_line)} is empty")
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    where = f"column {column}" if one_line else f"line {line}, column {column}"
    return MalformedRequest(f"{subject(one_line)} is not valid JSON ({where})")


def subject(one_line: bool) -> str:
    """What an error is about."""
    return "it" if one_line else "the body"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedRequest("an object has the same key twice")
    return members


def _no_constant(_name: str) -> NoReturn:
    raise MalformedRequest("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0.0:  # infinite
        raise MalformedRequest("a number is too large for a double")
    return number


def _bounded(text: str) -> int:
    return int(text) if len(text) <= _INT64_DIGITS else _BEYOND_INT64


def too_deep() -> InvalidRequest:
    """The error about arrays and objects beyond `MAX_DEPTH`."""
    return InvalidRequest([FieldError("", f"nested deeper than {MAX_DEPTH} levels")])


def check_depth(raw: bytes, limit: int = MAX_DEPTH) -> None:
    """Raise InvalidRequest if the brackets outside of strings nest deeper than `limit`.

    Up to the first syntax error in `raw` this is the depth to which the scanner recurses; there the scanner stops.
    """
    text = raw.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in raw else raw
    steps = text.translate(_TO_STEPS, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in steps:
        steps = _QUOTED.sub(b"", steps)
    depth = 0
    for start in range(0, len(steps), _BLOCK):
        depths = list(accumulate(memoryview(steps)[start : start + _BLOCK].cast("b"), initial=depth))
        if max(depths) > limit:
            raise too_deep()
        depth = depths[-1]


def check_values(value: ParsedJSON, pointer: str) -> None:
    """Check the strings, keys and integers of `value` for what the C scanner accepts and the contract does not."""
    if isinstance(value, str):
        _check_string(value, pointer)
    elif isinstance(value, dict):
        for key, member in value.items():
            _check_string(key, pointer)
            check_values(member, f"{pointer}/{escape_pointer(key)}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_values(item, f"{pointer}/{index}")
    elif isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        raise InvalidRequest([FieldError(pointer, "an integer beyond 64 bits")])


def _check_string(text: str, pointer: str) -> None:
    if text.isascii() and "\0" not in text:
        return
    if "\0" in text:
        raise InvalidRequest([FieldError(pointer, "a string or key holds the character U+0000")])
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedRequest("a string or key holds half of a surrogate pair") from None


def _integers(value: ParsedJSON) -> ParsedJSON:
    if isinstance(value, float):
        return int(value) if value.is_integer() and INT64_MIN <= value <= INT64_MAX else value
    if isinstance(value, dict):
        return {key: _integers(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_integers(item) for item in value]
    return value


def _scanner(**hooks: Any) -> Any:
    """The C scanner without `decode`, which would cost two regular expressions."""
    decoder: Any = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, **hooks)
    return decoder.scan_once


_quick = _scanner()
_careful = _scanner(parse_float=_finite, parse_int=_bounded)
