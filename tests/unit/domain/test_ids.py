"""UUIDv7 ids tell when they were made, and sort by it."""

import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.ids import age_of, floor_at, new_id

moments = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


def test_new_ids_are_uuid7_of_now_and_rise() -> None:
    before = time.time()
    made = [new_id() for _ in range(2000)]
    assert made == sorted(set(made))
    assert {one.version for one in made} == {7}
    assert {one.variant for one in made} == {"specified in RFC 4122"}
    assert all(before - 0.01 <= (one.int >> 80) / 1000 <= time.time() + 0.01 for one in made)


def test_a_new_id_has_no_age() -> None:
    age = age_of(new_id(), datetime.now(UTC))
    assert age is not None
    assert -0.01 <= age < 5


def test_only_a_uuid7_has_an_age() -> None:
    assert age_of(uuid4(), datetime.now(UTC)) is None
    assert age_of(UUID(int=0), datetime.now(UTC)) is None


@given(moments, st.floats(0.001, 1e8))
def test_age_is_the_time_since(moment: datetime, seconds: float) -> None:
    age = age_of(floor_at(moment), moment + timedelta(seconds=seconds))
    assert age is not None
    assert abs(age - seconds) < 0.01


@given(moments, moments)
def test_ids_sort_as_their_times(one: datetime, another: datetime) -> None:
    if one + timedelta(milliseconds=2) < another:
        assert floor_at(one) < floor_at(another)


def test_a_new_id_lies_between_the_floors_around_it() -> None:
    now = datetime.now(UTC)
    assert floor_at(now - timedelta(seconds=1)) < new_id() < floor_at(now + timedelta(seconds=60))


def test_a_floor_is_a_uuid7_at_the_edges_of_the_calendar_too() -> None:
    for moment in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        assert floor_at(moment).version == 7
        assert floor_at(moment, 3600.0).version == 7
    assert floor_at(datetime.max.replace(tzinfo=UTC), 3600.0) > new_id()
    assert floor_at(datetime.max.replace(tzinfo=UTC), 1e12) >= floor_at(datetime.max.replace(tzinfo=UTC))


@given(moments, st.floats(0, 1e6))
def test_a_floor_may_be_that_of_a_later_moment(moment: datetime, seconds: float) -> None:
    exact = floor_at(moment + timedelta(seconds=seconds))
    assert abs((floor_at(moment, seconds).int >> 80) - (exact.int >> 80)) <= 1
