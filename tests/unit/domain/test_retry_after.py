"""Retry-After, both forms, and everything that is neither."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.failures import RateLimited
from accepted.domain.retry import MAX_RETRY_AFTER, Retry, parse_retry_after

NOW = datetime(2026, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7\t", 7.0),
        ("86401", MAX_RETRY_AFTER),
        ("9" * 5000, MAX_RETRY_AFTER),
        ("Fri, 06 Nov 2026 08:50:37 GMT", 60.0),
        ("Friday, 06-Nov-26 08:50:37 GMT", 60.0),
        ("Fri Nov  6 08:50:37 2026", 60.0),
        ("Fri, 06 Nov 2020 08:50:37 GMT", 0.0),
        ("Fri, 06 Nov 9999 08:50:37 GMT", MAX_RETRY_AFTER),
    ],
)
def test_readable(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds


UNREADABLE = [
    *("", "-1", "+1", "1.5", "1e3", "٣", "0x10", "NaN", "inf", "soon", "1, 2", "Fri", "Fri" * 99),
    *("2026-11-06T08:50:37Z", "06 Nov 2026 08:50:37 GMT", "Fri, 06 Nov 2026 08:50:37 +9999999999"),
    *("Fri, 99 Nov 2026 08:50:37 GMT", "Fri, 06 Nov 2026 25:50:37 GMT"),
]


@pytest.mark.parametrize("value", UNREADABLE)
def test_unreadable(value: str) -> None:
    assert parse_retry_after(value, NOW) is None


@given(st.one_of(st.text(max_size=80), st.text(max_size=60).map(lambda rest: f"Fri, {rest}")))
def test_no_value_raises_or_leaves_the_range(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, 10**400, -1.0, 0, "NaN", "9" * 400])
def test_whatever_a_handler_asks_for_the_wait_is_a_wait(value: float | str) -> None:
    asked = RateLimited("slower", retry_after=value).retry_after
    assert asked is None or asked <= MAX_RETRY_AFTER
    assert 30.0 <= Retry(schedule=(30.0,), jitter=0.0).wait(1, 0.5, asked) <= MAX_RETRY_AFTER
