"""How many jobs a lane claims before it has slots for them, and which of them go back."""

from typing import cast

import msgspec
import pytest

from accepted.services.jobs.claiming import Delivery
from accepted_worker.runtime import claimed_ahead
from accepted_worker.runtime.claimed_ahead import LONGEST, MOST, PATIENCE, WINDOW, ClaimedAhead
from tests.support.waiting import until

SLOTS = 10


class _Job(msgspec.Struct):
    number: int


def deliveries(count: int) -> list[Delivery]:
    return [cast(Delivery, _Job(number)) for number in range(count)]


@pytest.fixture
def late() -> list[Delivery]:
    return []


@pytest.fixture
def ahead(late: list[Delivery], monkeypatch: pytest.MonkeyPatch) -> ClaimedAhead:
    """Its window does not end within a test."""
    monkeypatch.setattr(claimed_ahead.ClaimedAhead, "_move_on", lambda _: None)
    return ClaimedAhead(SLOTS, late.extend)


def ended(ahead: ClaimedAhead, count: int, seconds: float) -> None:
    for _ in range(count):
        ahead.count_ended(seconds)


async def test_nothing_before_anything_has_ended(ahead: ClaimedAhead) -> None:
    assert ahead.room == 0


async def test_as_many_short_jobs_as_have_ended_lately(ahead: ClaimedAhead) -> None:
    ended(ahead, 60, 0.001)
    assert ahead.room == 60
    ended(ahead, 10 * MOST, 0.0)
    assert ahead.room == MOST


@pytest.mark.parametrize(("seconds", "room"), [(WINDOW / 2, 20), (WINDOW, 10), (2 * WINDOW, 5), (1.0, 0), (600.0, 0)])
async def test_no_more_than_begin_soon_by_the_mean_run_time(ahead: ClaimedAhead, seconds: float, room: int) -> None:
    ended(ahead, 1000, seconds)
    assert ahead.room == pytest.approx(room, abs=1)


async def test_one_long_job_among_short_ones_ends_it_for_a_while(ahead: ClaimedAhead) -> None:
    ended(ahead, 1000, 0.001)
    ahead.count_ended(600.0)
    assert ahead.room == 0
    ended(ahead, 200, 0.001)
    assert ahead.room > SLOTS


async def test_the_next_claim_comes_once_half_of_them_have_begun(ahead: ClaimedAhead) -> None:
    ended(ahead, 20, 0.0)
    for delivery in deliveries(11):
        ahead.add(delivery)
    assert ahead.room == 0
    ahead.take()
    assert ahead.room == 10


async def test_what_waits_while_none_begins_goes_back(ahead: ClaimedAhead, late: list[Delivery]) -> None:
    some = deliveries(3)
    for delivery in some:
        ahead.add(delivery)
    assert ahead.take() is some[0]
    await until(lambda: late, 5, "those that wait to go back")
    assert late == some[1:]
    assert ahead.take() is None


async def test_what_waits_while_others_begin_goes_back_later(ahead: ClaimedAhead, late: list[Delivery]) -> None:
    first, *others = deliveries(1 + LONGEST)
    ahead.add(others[0])
    for number in range(LONGEST - 1):
        ahead._look()
        ahead._waiting.appendleft((ahead._tick, first))
        assert ahead.take() is first
        assert not late, number
    ahead._look()
    assert late == [others[0]]


async def test_a_process_that_stood_still_hands_nothing_back(ahead: ClaimedAhead, late: list[Delivery]) -> None:
    """However long it was: the ticks that it missed do not count."""
    ahead.add(deliveries(1)[0])
    for _ in range(PATIENCE - 1):
        ahead._look()
    assert not late


async def test_the_rest_is_taken_when_the_lane_stops(ahead: ClaimedAhead, late: list[Delivery]) -> None:
    some = deliveries(3)
    for delivery in some:
        ahead.add(delivery)
    assert ahead.take_all() == some
    assert ahead.take() is None
    assert not late
