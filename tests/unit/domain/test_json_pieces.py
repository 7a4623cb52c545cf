"""The reader of large bodies gives what the reader of small ones gives: the same value, or the same error."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accepted.domain import json_pieces, json_text
from accepted.domain.json_pieces import Apart, Unread
from accepted.errors import AcceptedError, InvalidRequest, TooLarge

SIZES = {"LARGE": 8, "WINDOW": 16, "_SEARCHED": 8}
"""So small that texts of a few characters are read in pieces."""


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name, size in SIZES.items():
            patch.setattr(json_pieces, name, size)
        yield


def finished(steps: json_pieces.Steps) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def outcome(read: Any) -> Any:
    try:
        return repr(read())
    except AcceptedError as error:
        return type(error), str(error), getattr(error, "errors", None)


def both(raw: bytes) -> tuple[Any, Any]:
    return outcome(lambda: finished(json_pieces.read(raw))), outcome(lambda: json_text.parse(raw))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=6),
    max_leaves=30,
)


@given(value=VALUES, indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
@settings(max_examples=400)
def test_every_value_is_read_as_at_once(value: Any, indent: int | None, ascii_only: bool) -> None:
    pieces, at_once = both(json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(errors="replace"))
    assert pieces == at_once


@given(value=VALUES, at=st.integers(0, 400), instead=st.sampled_from(["", ",", "]", "}", '"', "x", ":", "[", " ", "1"]))
@settings(max_examples=800)
def test_a_broken_text_has_the_same_error(value: Any, at: int, instead: str) -> None:
    text = json.dumps(value, indent=1)
    at %= len(text) + 1
    pieces, at_once = both((text[:at] + instead + text[at + 1 :]).encode())
    assert pieces == at_once


@pytest.mark.parametrize(
    "text",
    [
        '{"abcdefgh":1,"abcdefgh":2,"filler":"xxxxxxxxxxxxxxxxxxxx"}',
        "[1,2,3,4,5,6,7,8,9,10,11,12,NaN]",
        "[1,2,3,4,5,6,7,8,9,10,11,12,1e999]",
        '{"a":{"b~/c":[0,0,0,0,0,0,0,0,0,0,0,99999999999999999999]}}',
        '{"a":[0,0,0,0,0,0,0,0,0,0,0,0,{"b":"\\u0000"}],"c":}',
        '["aaaaaaaaaaaaaaaaaaaaaaaaaa","\\ud800"]',
        "[" * 64 + "1" + "]" * 64,
        "[" * 65 + "1" + "]" * 65,
        "[[1,2,3,4,5,6,7,8,9,0]," + "[" * 64 + "]" * 64 + "]",
        "   [1,2,3,4,5,6,7,8,9,10,11,12] \n",
        '{"aaaaaaaaaaaaaaaaaaaaaaa":1,}',
    ],
)
def test_what_is_no_plain_value(text: str) -> None:
    pieces, at_once = both(text.encode())
    assert pieces == at_once


def test_the_items_of_one_array_are_left_unread() -> None:
    body = {"on": "x" * 30, "jobs": [{"a": [1, 2]}, [], 3, {"b": {"c": "y" * 40}}], "off": [1, {"jobs": [2]}]}
    found = finished(json_pieces.read(json.dumps(body, indent=1).encode(), Apart("jobs", 4, 200)))
    assert all(isinstance(one, Unread) for one in found["jobs"])
    assert {**found, "jobs": [finished(one.read()) for one in found["jobs"]]} == body


def test_there_are_only_so_many_items_of_a_size() -> None:
    body = json.dumps({"jobs": [{"a": 1}] * 5 + [{"b": "x" * 300}]}).encode()
    with pytest.raises(InvalidRequest, match="more than 4 items"):
        finished(json_pieces.read(body, Apart("jobs", 4, 1000)))
    with pytest.raises(TooLarge, match="jobs/5 is larger than 200 characters"):
        finished(json_pieces.read(body, Apart("jobs", 9, 200)))


def test_what_is_beside_the_items_has_a_size_too() -> None:
    body = json.dumps({"jobs": [{"a": 1}] * 9 + [{}], "more": [{}] * 100}).encode()
    with pytest.raises(TooLarge, match="beside jobs is larger than 300 characters"):
        finished(json_pieces.read(body, Apart("jobs", 10, 300)))
    found = finished(json_pieces.read(body, Apart("jobs", 10, 450)))
    assert found["more"] == [{}] * 100
