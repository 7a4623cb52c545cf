"""The strict JSON reader and the canonical form (contract section 4, FAULTS 4.1)."""

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accepted.domain.json_text import MAX_DEPTH, canonical, encode, is_printable, parse
from accepted.errors import InvalidRequest, MalformedRequest

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=30)

MALFORMED = [
    b"",
    b"  \n",
    b"{",
    b'{"a":',
    b'{"a":1',
    b'{"a":1}}',
    b'{"a":1} x',
    b"{'a':1}",
    b'{"a":1,}',
    b"[1,]",
    b"[01]",
    b"+1",
    b".5",
    b"nul",
    b'"tab\there"',
    b'"nul\0here"',
    b'"\\x"',
    b'"\\u12"',
    b"// no\n1",
    b"NaN",
    b"[Infinity]",
    b'{"a":-Infinity}',
    b"1e999",
    b'{"type":1E+999}',
    b"[-1e0000000400]",
    b"[" + b"9" * 400 + b".0]",
    b"[" + b"9" * 300 + b"e99]",
    b'{"a":1,"a":1}',
    b'[{"x":{"a":1,"b":2,"a":3}}]',
    b'{"\\u0061":1,"a":2}',
    b'"\\ud800"',
    b'{"\\uDFFF":1}',
    b'["\\ude00\\ud83d"]',
    b'"\xed\xa0\x80"',
    b'"\xff"',
    b'"\xc0\x80"',
    b"\xef\xbb\xbf{}",
    '{"a":1}'.encode("utf-16"),
    '{"a":1}'.encode("utf-16-le"),
    "[]".encode("utf-32"),
    b"[" * 64,
    b"]" * 100 + b"[" * 100,
    b"[1}" * 100,
]

INVALID = [
    (b'"\\u0000"', ""),
    (b'{"payload":{"x/y":["ok","a\\u0000b"]}}', "/payload/x~1y/1"),
    (b'{"a~b":{"\\u0000":1}}', "/a~0b"),
    (b"9223372036854775808", ""),
    (b'{"n":[-9223372036854775809]}', "/n/0"),
    (b'{"n":' + b"9" * 5000 + b"}", "/n"),
    (b"[" * 65 + b"]" * 65, ""),
    (b'{"a":' * 65 + b"1" + b"}" * 65, ""),
    (b"[" * 900 + b"]" * 900, ""),
    (b"[" * 100_000 + b"]" * 100_000, ""),
    (b"[" * 100_000, ""),
    (b'{"a":' * 100_000, ""),
    (b"[" + b"[]," * 50_000 + b"[" * 64 + b"]" * 65, ""),
    (b'{"a":["' + b"\\\\" + b'",' + b"[" * 64 + b"]" * 64 + b"]}", ""),
]

DEEPEST: list[Any] = []
for _ in range(MAX_DEPTH - 1):
    DEEPEST = [DEEPEST]

VALID: list[tuple[bytes, Any]] = [
    (b" \r\n\t{} ", {}),
    (b"null", None),
    (b"[]", []),
    (b"9223372036854775807", 2**63 - 1),
    (b"-9223372036854775808", -(2**63)),
    (b"1e300", 1e300),
    (b"1e-999", 0.0),
    (b"0.12345678901234567890123", 0.12345678901234567890123),
    (b'"1e999 and 99999999999999999999"', "1e999 and 99999999999999999999"),
    (b'"\\\\u0000"', "\\u0000"),
    (b'"\\ud83d\\ude00 \\u00e9"', "😀 é"),
    ("「」".encode().join([b'"', b'"']), "「」"),
    (b'{"":0}', {"": 0}),
    (b"[" * 64 + b"]" * 64, DEEPEST),
    (b"[" + b"[]," * 100 + b"[]]", [[]] * 101),
    (b'["' + b"[{" * 100 + b'"]', ["[{" * 100]),
    (b'["\\"' + b"[" * 100 + b'\\\\"]', ['"' + "[" * 100 + "\\"]),
]


@pytest.mark.parametrize("raw", MALFORMED, ids=lambda raw: repr(raw[:24]))
def test_refuses_what_is_not_strict_json(raw: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse(raw)


@pytest.mark.parametrize(("raw", "pointer"), INVALID, ids=lambda it: repr(it[:24]))
def test_refuses_json_that_cannot_be_stored(raw: bytes, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(raw)
    assert [error.pointer for error in refused.value.errors] == [pointer]


@pytest.mark.parametrize(("raw", "value"), VALID, ids=lambda it: repr(it)[:24])
def test_reads_all_other_json(raw: bytes, value: Any) -> None:
    assert parse(raw) == value


def test_errors_name_the_place_and_echo_nothing() -> None:
    with pytest.raises(MalformedRequest, match=r"\(line 3, column 11\)") as refused:
        parse(b'\n{"secret":\n "canary" canary}')
    assert "canary" not in refused.value.detail


def test_a_hundred_thousand_keys_are_read() -> None:
    many = {str(number): number for number in range(100_000)}
    assert parse(encode(many)) == many


@given(JSON)
def test_reads_what_we_write(value: Any) -> None:
    assert parse(encode(value)) == value


@given(JSON)
def test_reads_what_others_write(value: Any) -> None:
    assert parse(json.dumps(value, indent=1).encode()) == value


@given(JSON, st.integers(0, 20), st.sampled_from(["[", "{"]))
def test_depth_is_measured_whatever_the_strings_hold(value: Any, room: int, kind: str) -> None:
    levels = MAX_DEPTH + room - 10
    nested = value
    for _ in range(levels):
        nested = [nested] if kind == "[" else {'k["\\': nested}
    raw = encode([[]] * MAX_DEPTH + [nested])  # never the short way
    if 1 + levels + _depth(value) <= MAX_DEPTH:
        assert parse(raw) is not None
    else:
        with pytest.raises(InvalidRequest):
            parse(raw)


@given(st.binary() | TEXT.map(str.encode) | JSON.map(encode).flatmap(lambda raw: st.just(raw[: len(raw) // 2])))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        value = parse(raw)
    except (MalformedRequest, InvalidRequest):
        return
    assert parse(encode(value)) == value


@given(JSON, st.randoms(use_true_random=False), st.booleans())
def test_canonical_ignores_key_order_and_whitespace(value: Any, rng: random.Random, ascii_only: bool) -> None:
    respelled = json.dumps(_shuffled(value, rng), indent=2, ensure_ascii=ascii_only).encode()
    assert canonical(parse(respelled)) == canonical(value)


@given(JSON, JSON)
def test_canonical_tells_different_values_apart(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (_typed(one) == _typed(other))


@pytest.mark.parametrize("spelling", [b"100", b"100.0", b"1e2", b"1E+2", b"10000e-2", b"100.000"])
def test_canonical_knows_one_spelling_of_a_number(spelling: bytes) -> None:
    assert canonical(parse(b'{"a":[' + spelling + b"]}")) == b'{"a":[100]}'
    assert canonical(parse(spelling)) == b"100"


def test_canonical_writes_large_whole_numbers_in_full() -> None:
    assert canonical(parse(b'{"a":[1e17,2]}')) == canonical(parse(b'{"a":[100000000000000000,2]}'))


def test_canonical_keeps_fractions() -> None:
    assert canonical(parse(b'[1.5,-0.0,"1.0",1e300,true]')) == b'[1.5,0,"1.0",1e300,true]'


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        members = [(key, _shuffled(member, rng)) for key, member in value.items()]
        rng.shuffle(members)
        return dict(members)
    return [_shuffled(item, rng) for item in value] if isinstance(value, list) else value


def _typed(value: Any) -> Any:
    """`value` so that == means equal as JSON: in Python, True == 1 and a large float may equal an int."""
    if isinstance(value, dict):
        return {key: _typed(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    if isinstance(value, float):
        return ("number", value if math.fmod(value, 1) else int(value))
    return (type(value).__name__ if isinstance(value, bool) else "number", value)


@pytest.mark.parametrize(
    "name",
    [
        "order 7",
        "Zürich",
        "Zu\u0308rich",
        "日本語",
        "ราคา",
        "می\u200cخواهم",
        "ක්\u200dෂ",
        "👩\u200d👩\u200d👧",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "❤\ufe0f",
        "שלום\u200e!",
        "a\u00a0b\u3000c",
        "\U0001fae8",
        "\U0002ebf0",
        "\U0001fadf",
    ],
)
def test_what_people_write_is_a_name(name: str) -> None:
    """Also letters and emoji that are newer than this Python, whose `isprintable` knows nothing of joiners either."""
    assert is_printable(name)


@given(st.characters(categories=["Cc", "Cs", "Zl", "Zp"]) | st.sampled_from("\u202a\u202b\u202c\u202d\u202e"))
def test_controls_line_breaks_and_overrides_are_in_no_name(character: str) -> None:
    assert not is_printable(f"a{character}b")


@given(st.characters(categories=["L", "M", "N", "P", "S", "Zs"]))
def test_every_letter_mark_number_and_symbol_may_be_in_a_name(character: str) -> None:
    assert is_printable(character)
