"""The Prefer header (RFC 7240; contract section 4)."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.request_headers import read_wait


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([], None),
        ([""], None),
        (["respond-async"], None),
        (["wait=10"], 10),
        (["wait=0"], 0),
        (["wait=60"], 60),
        (["wait=61"], 60),
        (["wait=" + "9" * 900], 60),
        (["wait=" + "0" * 900 + "7"], 7),
        (["Wait = 5"], 5),
        (['wait="5"'], 5),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (["wait=3, wait=9"], 3),
        (["wait=3", "wait=9"], 3),
        (["wait=x, wait=9"], None),
        (["wait, wait=9"], None),
        (["wait=5; x=1, foo"], 5),
        (["foo; wait=5"], None),
        (['foo="a, wait=5", wait=7'], 7),
        (['foo="a\\", wait=5", wait=7'], 7),
        (["waiting=5, wait=7"], 7),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=5s"], None),
        (["wait=٣"], None),
        ([",,;,wait=4"], 4),
    ],
)
def test_reads_the_first_wait(values: list[str], seconds: int | None) -> None:
    assert read_wait(values) == seconds


@given(st.lists(st.text() | st.text('wait=5;," \\'), max_size=4))
def test_nothing_is_an_error(values: list[str]) -> None:
    assert read_wait(values) in [None, *range(61)]


def test_unclosed_quotes_cost_little() -> None:
    started = time.perf_counter()
    assert read_wait(['"\\' * 30_000]) is None
    assert time.perf_counter() - started < 10
