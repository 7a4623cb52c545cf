"""Percentiles that are computed from buckets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.monitoring.statistics import BOUNDS, RUNS, percentile, run_column


def counted(times: list[float]) -> list[int]:
    found = [run_column(time) for time in times]
    return [found.count(name) for name in RUNS]


@given(st.lists(st.floats(0, BOUNDS[-1]), min_size=1, max_size=50), st.sampled_from([0.5, 0.99]))
def test_a_percentile_is_in_the_bucket_of_the_true_one(times: list[float], share: float) -> None:
    found = percentile(counted(times), share)
    true = sorted(times)[max(math.ceil(len(times) * share), 1) - 1]
    assert found is not None
    lower, upper = next((a, b) for a, b in zip((0.0, *BOUNDS), BOUNDS, strict=False) if true <= b)
    assert lower * 0.99 <= found <= upper * 1.01


def test_no_times_and_endless_ones() -> None:
    assert percentile(counted([]), 0.5) is None
    assert percentile(counted([1e9]), 0.5) == pytest.approx(BOUNDS[-1], rel=0.01)
