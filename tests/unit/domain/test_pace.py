"""A rate limit is exact in the long run, and never exceeded by more than the catch-up."""

from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.rates import CATCH_UP, Pace

INTERVALS = st.floats(0.001, 60)


@given(INTERVALS, st.lists(st.floats(0, 1), max_size=200))
def test_no_more_start_than_the_rate_and_the_catch_up(interval: float, pauses: list[float]) -> None:
    pace, now, last, started = Pace(interval), 0.0, None, 0
    for pause in pauses:
        now += pause
        ready = pace.ready(None if last is None else now - last)
        count = pace.allowed(ready, 0)
        started += count
        if count:
            last = now + pace.counts(ready, count)
        assert started <= (now + CATCH_UP) / interval + 1.001


@given(INTERVALS)
def test_a_late_limiter_loses_no_start(interval: float) -> None:
    """A limiter that checks often enough to catch up starts as many as the rate says."""
    pace, last, started, every = Pace(interval), None, 0, CATCH_UP / 3
    for step in range(int(10 * max(interval, every) / every)):
        now = step * every
        ready = pace.ready(None if last is None else now - last)
        count = pace.allowed(ready, 0)
        started += count
        if count:
            last = now + pace.counts(ready, count)
    assert started >= now / interval - 0.001


def test_a_first_start_is_no_burst() -> None:
    assert Pace(0.1).allowed(Pace(0.1).ready(None), 0) == 1


def test_after_an_idle_time_only_the_catch_up_starts_at_once() -> None:
    assert Pace(0.1).allowed(Pace(0.1).ready(3600), 0) == 3


def test_a_clock_set_back_counts_as_a_start_now() -> None:
    assert Pace(0.1).ready(-3600) == 0.1


@given(INTERVALS, INTERVALS, st.floats(0, 100))
def test_a_new_rate_counts_from_the_last_start(before: float, after: float, since: float) -> None:
    """Whatever the former rate would still wait for, the new one waits for its own interval at most."""
    last = Pace(before).counts(0.0, 1)
    assert Pace(after).ready(since - last) == max(after - since, -CATCH_UP)


def test_admitted_jobs_that_wait_for_a_slot_make_no_burst() -> None:
    assert [Pace(0.1).allowed(-0.25, admitted) for admitted in (0, 1, 2, 3, 10)] == [3, 2, 1, 0, 0]
