"""The Idempotency-Key header and fingerprints (contract section 4, FAULTS 4.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.json_text import parse
from accepted.domain.request_headers import fingerprint, read_key
from accepted.errors import MalformedRequest

VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)


def quoted(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def test_no_header_is_no_key() -> None:
    assert read_key([]) is None


@given(VISIBLE)
def test_the_quoted_string_stands_for_its_text(key: str) -> None:
    assert read_key([quoted(key)]) == key


@given(VISIBLE.filter(lambda key: not key.startswith('"')))
def test_the_bare_form_is_the_same_key(key: str) -> None:
    assert read_key([key]) == read_key([f" {quoted(key)}\t"]) == key


@pytest.mark.parametrize(
    "values",
    [
        [""],
        ['""'],
        ["  "],
        ["a", "a"],
        ["a b"],
        ['"a b"'],
        ["a\tb"],
        ["a\x00b"],
        ["caf\xe9"],
        ['"caf\xe9"'],
        ["\x7f"],
        ['"open'],
        ['"'],
        ['"a"b"'],
        ['"a";x=1'],
        ['"a", "b"'],
        ['"bad\\escape"'],
        ["k" * 256],
        [quoted("k" * 256)],
        ["k" * 65536],
        ["\u0663"],
    ],
)
def test_anything_but_one_visible_key_is_refused(values: list[str]) -> None:
    with pytest.raises(MalformedRequest):
        read_key(values)


def test_the_longest_key_counts_without_quotes_and_escapes() -> None:
    assert read_key(["k" * 255]) == read_key([quoted("k" * 255)])
    assert read_key([quoted('"' * 255)]) == '"' * 255


def test_a_key_is_inert_text() -> None:
    assert read_key(["';DROP/**/TABLE/**/jobs;--"]) == "';DROP/**/TABLE/**/jobs;--"


def test_a_fingerprint_compares_json_not_bytes() -> None:
    one = fingerprint("POST", "/jobs", parse(b'{"type":"noop","payload":{"n":1,"s":"\\u00e9"}}'))
    same = fingerprint("POST", "/jobs", parse('{ "payload": {"s": "é", "n": 1.0},\n"type": "noop" }'.encode()))
    assert one == same
    assert len(one) == 16


def test_a_fingerprint_covers_method_path_and_body() -> None:
    body = {"type": "noop"}
    others = [("PUT", "/jobs", body), ("POST", "/batches", body), ("POST", "/jobs", {"type": "noop", "a": None})]
    prints = {fingerprint("POST", "/jobs", body)} | {fingerprint(*other) for other in others}  # type: ignore[arg-type]
    assert len(prints) == 4
