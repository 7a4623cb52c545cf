"""Wait k is schedule[k]·(1 + U(0, jitter)), the last entry repeats, `Retry-After` is a floor. Contract, 4 and 5."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.retry import MAX_RETRY_AFTER, WEBHOOK_RETRY, Retry, read_policy

waits = st.floats(0, 1e6)
policies = st.builds(
    Retry,
    max_attempts=st.integers(1, 100),
    schedule=st.lists(waits, min_size=1, max_size=8).map(tuple),
    jitter=st.floats(0, 1),
)
chances = st.floats(0, 1, exclude_max=True)
failures = st.integers(1, 200)


@given(policies, failures, chances)
def test_a_wait_is_the_schedule_and_at_most_the_jitter_more(policy: Retry, count: int, chance: float) -> None:
    base = policy.schedule[min(count, len(policy.schedule)) - 1]
    assert base <= policy.wait(count, chance) <= base * (1 + policy.jitter)


@given(policies, failures, st.tuples(chances, chances))
def test_the_wait_grows_with_the_chance(policy: Retry, count: int, pair: tuple[float, float]) -> None:
    low, high = sorted(pair)
    assert policy.wait(count, low) <= policy.wait(count, high)


@given(policies, chances)
def test_the_last_entry_repeats(policy: Retry, chance: float) -> None:
    last = policy.wait(len(policy.schedule), chance)
    assert policy.wait(len(policy.schedule) + 1, chance) == policy.wait(1000, chance) == last


@given(policies, failures, chances, st.floats(0, 1e9))
def test_retry_after_is_a_floor_up_to_a_day(policy: Retry, count: int, chance: float, asked: float) -> None:
    wait = policy.wait(count, chance, asked)
    assert wait >= min(asked, 86400)
    assert wait >= policy.wait(count, chance)
    longest = max(*policy.schedule, MAX_RETRY_AFTER) if len(policy.schedule) > 1 else max(policy.schedule[0], 86400)
    assert wait <= longest * (1 + policy.jitter)


@given(policies, failures, chances)
def test_no_retry_after_changes_nothing(policy: Retry, count: int, chance: float) -> None:
    assert policy.wait(count, chance, None) == policy.wait(count, chance, 0) == policy.wait(count, chance)


def test_the_default_policy_is_that_of_the_contract() -> None:
    assert Retry() == Retry(max_attempts=5, schedule=(30, 300, 1800, 7200), jitter=0.2)


def test_webhooks_follow_the_standard() -> None:
    hour = 3600.0
    assert WEBHOOK_RETRY.schedule == (
        5.0, 300.0, 1800.0, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour,
    )  # fmt: skip
    assert WEBHOOK_RETRY.max_attempts == len(WEBHOOK_RETRY.schedule) + 1


@pytest.mark.parametrize(("count", "wait"), [(1, 1.0), (2, 10.0), (3, 10.0)])
def test_an_example(count: int, wait: float) -> None:
    assert Retry(schedule=(1.0, 10.0), jitter=0.5).wait(count, 0.0) == wait
    assert Retry(schedule=(1.0, 10.0), jitter=0.5).wait(count, 0.5) == wait * 1.25


def test_a_schedule_may_be_a_list() -> None:
    assert Retry(schedule=[5, 30]) == Retry(schedule=(5.0, 30.0))
    assert msgspec.json.decode(b'{"schedule": [5, 30]}', type=Retry) == Retry(schedule=(5.0, 30.0))


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan, -1, "1", None, True])
def test_a_policy_that_gives_no_wait_is_refused_where_it_is_written(odd: Any) -> None:
    for wrong in ({"schedule": (1.0, odd)}, {"jitter": odd if odd is not True else 2}, {"max_attempts": odd}):
        with pytest.raises(ValueError, match=f"Retry: .*{next(iter(wrong))}"):
            Retry(**wrong)
    with pytest.raises(ValueError, match="max_attempts"):
        Retry(max_attempts=0)


@pytest.mark.parametrize("stored", ["[]", "5", "{", '{"max_attempts": "x"}', '{"jitter": 7}', '{"schedule": [-1]}'])
def test_a_stored_policy_that_cannot_be_read_counts_as_the_default(stored: str) -> None:
    default = Retry(7)
    assert read_policy(stored, default) is default
    assert read_policy('{"max_attempts": 2}', default) == Retry(2)
