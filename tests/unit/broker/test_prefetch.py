"""The prefetch of a worker: its slots, and more while it asks for many messages."""

import pytest

from accepted.broker.rabbitmq import prefetch
from accepted.broker.rabbitmq.prefetch import AHEAD, AHEAD_SECONDS, HOLD, HOLD_AHEAD, MOST, Prefetch

SLOTS = 10


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(prefetch.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("asked", [0, SLOTS, 2 * SLOTS - 1])
def test_a_worker_that_asks_for_what_it_has_slots_for_has_its_slots(asked: int) -> None:
    one = Prefetch(SLOTS)
    one.asked_for(asked)
    assert not one.outdated
    assert (one.renewed(), one.hold) == (SLOTS, HOLD)


def test_one_that_asks_for_many_has_more_for_a_while(clock: list[float]) -> None:
    one = Prefetch(SLOTS)
    one.asked_for(2 * SLOTS)
    assert one.outdated
    assert (one.renewed(), one.hold) == (SLOTS + AHEAD, HOLD_AHEAD)
    assert not one.outdated
    clock[0] += AHEAD_SECONDS
    assert one.outdated
    assert (one.renewed(), one.hold) == (SLOTS, HOLD)


@pytest.mark.usefixtures("clock")
def test_new_consumers_begin_with_the_slots() -> None:
    one = Prefetch(SLOTS)
    one.asked_for(2 * SLOTS)
    one.renewed()
    one.reset()
    assert not one.outdated
    assert one.renewed() == SLOTS


@pytest.mark.usefixtures("clock")
def test_there_is_a_most() -> None:
    assert Prefetch(10**6).renewed() == MOST
