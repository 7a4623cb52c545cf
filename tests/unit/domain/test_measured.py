"""Little's law over what was measured."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest

from accepted.domain.rates import Measured, size
from accepted.domain.snapshot import JobSnapshot, QueueLimits, QueuePosition, expected_start


def measured(rate_in: float, mean: float | None) -> Measured:
    return Measured(300.0, rate_in, rate_in, mean)


def test_nothing_measured_says_so() -> None:
    sizing = size(Measured(), 5)
    assert (sizing.slots_at_least, sizing.slots_advised) == (None, None)
    assert "Nothing was measured yet" in sizing.detail


def test_no_ended_attempt_says_so() -> None:
    sizing = size(measured(2.0, None), 5)
    assert sizing.slots_at_least is None
    assert "how long one takes" in sizing.detail


@pytest.mark.parametrize(
    ("rate", "mean", "backlog", "within", "at_least", "advised"),
    [
        (10.0, 0.5, 0, 300.0, 5, 7),  # 5 busy; 80 % of 7 is 5.6
        (10.0, 0.4, 0, 300.0, 4, 5),  # exactly 4 busy is no fifth slot
        (0.01, 0.1, 0, 300.0, 1, 1),
        (0.0, 2.0, 0, 300.0, 0, 0),
        (0.0, None, 0, 300.0, 0, 0),
        (0.0, 2.0, 600, 300.0, 0, 4),  # 1200 s of work in 300 s
        (10.0, 0.5, 600, 60.0, 5, 12),  # 6.25 + 5
    ],
)
def test_slots(rate: float, mean: float | None, backlog: int, within: float, at_least: int, advised: int) -> None:
    sizing = size(measured(rate, mean), backlog, within)
    assert (sizing.slots_at_least, sizing.slots_advised) == (at_least, advised)
    assert f"{backlog} waiting jobs" in sizing.detail


def test_a_backlog_that_nothing_could_work_off_in_time_is_a_number_too() -> None:
    sizing = size(measured(1e6, 1e6), 10**12, 0.001)
    assert sizing.slots_advised is not None


def test_a_start_that_lies_beyond_the_calendar_is_not_foreseen() -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    job = JobSnapshot(
        id=UUID(int=1), now=now, status="queued", type="noop", queue="q", attempt=0, max_attempts=1, run_at=now,
        due_at=now, published=True, limits=QueueLimits(rate_jobs=1, rate_per=86400.0),
    )  # fmt: skip
    near = msgspec.structs.replace(job, position=QueuePosition(ahead=9))
    far = msgspec.structs.replace(job, position=QueuePosition(ahead=10**8))
    assert expected_start(near) == now + timedelta(days=10)
    assert expected_start(far) is None
