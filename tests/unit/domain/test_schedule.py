"""Which times of a schedule are run and which are skipped, after an outage of any length."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.schedule import GRACE, MAX_MISSED, OnMissed, cron_line, plan, smeared

NOON = datetime(2027, 6, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
EVERY_MINUTE = cron_line("* * * * *", "UTC")


@pytest.mark.parametrize("on_missed", list(OnMissed))
@pytest.mark.parametrize("late", [timedelta(0), timedelta(seconds=1), GRACE])
def test_a_time_within_the_grace_runs(on_missed: str, late: timedelta) -> None:
    planned = plan(EVERY_MINUTE, NOON, on_missed, NOON + late)
    assert (planned.run, planned.skip, planned.next_at) == ([NOON], [], NOON + MINUTE)


@pytest.mark.parametrize(
    ("on_missed", "run"), [(OnMissed.SKIP, []), (OnMissed.RUN_ONCE, [3]), (OnMissed.RUN_ALL, [0, 1, 2, 3])]
)
def test_missed_times_follow_on_missed(on_missed: str, run: list[int]) -> None:
    due = [NOON + number * MINUTE for number in range(4)]
    planned = plan(EVERY_MINUTE, NOON, on_missed, due[-1] + 2 * GRACE)
    assert planned.run == [due[number] for number in run]
    assert planned.skip == [one for one in due if one not in planned.run]
    assert planned.next_at == due[-1] + MINUTE


@pytest.mark.parametrize(
    ("on_missed", "run"), [(OnMissed.SKIP, [2]), (OnMissed.RUN_ONCE, [2]), (OnMissed.RUN_ALL, [0, 1, 2])]
)
def test_a_time_that_is_due_now_counts_as_the_one_run(on_missed: str, run: list[int]) -> None:
    due = [NOON + number * MINUTE for number in range(3)]
    planned = plan(EVERY_MINUTE, NOON, on_missed, due[-1] + timedelta(seconds=1))
    assert planned.run == [due[number] for number in run]
    assert len(planned.run) + len(planned.skip) == 3


@pytest.mark.parametrize("on_missed", list(OnMissed))
def test_an_outage_of_weeks_runs_at_most_the_limit(on_missed: str) -> None:
    next_at: datetime | None = NOON
    now = NOON + timedelta(days=3, seconds=30)
    ran: list[datetime] = []
    skipped: list[datetime] = []
    while next_at is not None and next_at <= now:
        planned = plan(EVERY_MINUTE, next_at, on_missed, now)
        assert len(planned.run) + len(planned.skip) <= MAX_MISSED
        ran += planned.run
        skipped += planned.skip
        next_at = planned.next_at
    assert len(ran) == {OnMissed.SKIP: 0, OnMissed.RUN_ONCE: 1, OnMissed.RUN_ALL: MAX_MISSED}[OnMissed(on_missed)]
    assert sorted(ran + skipped) == [NOON + number * MINUTE for number in range(3 * 24 * 60 + 1)]
    assert not ran or max(ran) == max(ran + skipped), "the latest are caught up on"


def test_a_time_that_the_line_no_longer_has_runs() -> None:
    """It was due when it was found; a new release of the time zones may have moved it since."""
    odd = NOON + timedelta(seconds=7)
    assert plan(EVERY_MINUTE, odd, OnMissed.SKIP, odd).run == [odd]


def test_smearing_is_even_and_always_the_same() -> None:
    moments = [smeared("t", f"name-{number}", NOON, 100) for number in range(2000)]
    offsets = sorted((moment - NOON).total_seconds() for moment in moments)
    assert offsets[0] >= 0
    assert offsets[-1] < 100
    assert all(abs(offset - 100 * number / 2000) < 5 for number, offset in enumerate(offsets))
    assert moments == [smeared("t", f"name-{number}", NOON, 100) for number in range(2000)]
    assert len({smeared("t", "n", NOON + number * MINUTE, 100).second for number in range(60)}) > 20


@given(st.text(), st.text(), st.floats(0, 366 * 86400))
def test_smearing_stays_within_its_window(tenant: str, name: str, spread_over: float) -> None:
    assert NOON <= smeared(tenant, name, NOON, spread_over) <= NOON + timedelta(seconds=spread_over)


def test_without_a_window_it_runs_when_it_is_due() -> None:
    assert smeared("t", "n", NOON, 0) == NOON
