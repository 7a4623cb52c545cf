"""The whole life of jobs, at random: whatever is done to them in whatever order, the ledger does what the model says.

One thing happens at a time here; what happens at the same time is the matter of `tests/faults` and of the tests of
each statement. On failure Hypothesis prints the shortest life that it finds to go wrong.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from accepted.domain.failures import FailureClass
from accepted_worker.scheduler import ending
from tests.model.accepting import Accepting
from tests.model.contract import STATUSES, TRANSITIONS
from tests.model.deciding import Deciding
from tests.model.ledger import Clock, Ledger
from tests.model.model import MOST_CRASHES
from tests.model.scheduling import Scheduling
from tests.model.stage import QUEUES, WORKERS, Coverage, Stage
from tests.model.working import Working
from tests.support.servers.postgres import DatabaseServer

STEPS = 50
QUICK, LONG = 60, 500
"""Examples. The quick ones reach nearly every transition dozens of times; the few rare ones are walked on purpose."""

A_JOB = {
    "queue": "a", "delay": 0, "expires": None, "most": 5, "waits": [2], "tells": True, "payload": 0,
}  # fmt: skip
EVERYTHING = {"worker": WORKERS[0], "queues": QUEUES, "most": 500}


class Life(Accepting, Working, Deciding, Scheduling):
    """Every rule there is."""


@pytest.fixture
def ledger(database_server: DatabaseServer, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger that does not wait for the disk: nothing here dies."""
    name = database_url.rpartition("/")[2]
    database_server.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    clock = Clock()
    monkeypatch.setattr(ending, "time", clock)
    made = Ledger(database_url, clock)
    yield made
    made.close()


def crash_three_times(life: Life) -> None:
    """At once, then on the schedule, then never again, whatever the budget says."""
    life.begin(asked=[A_JOB])
    for status in ("queued", "retrying"):
        life.claim(**EVERYTHING)
        life.vanish(number=0)
        life.rescue()
        assert life.having(status)
        life.pass_time(units=2)
        life.relay()
    life.claim(**EVERYTHING)
    life.crash(number=0)
    assert life.having("failed")


def end_between_two_attempts(life: Life) -> None:
    life.begin(asked=[A_JOB, A_JOB | {"expires": 1.5}])
    life.claim(**EVERYTHING)
    for _ in range(2):
        life.fail(number=0, kind=FailureClass.TRANSIENT)
    life.cancel_a_waiting_job(number=0)
    life.pass_time(units=2)
    life.expire()
    assert len(life.having("cancelled")) == len(life.having("expired")) == 1


def replay_at_a_pace(life: Life) -> None:
    life.begin(asked=[A_JOB, A_JOB])
    life.claim(**EVERYTHING)
    for _ in range(2):
        life.fail(number=0, kind=FailureClass.INVALID)
    life.replay(which="all", number=0, every=1)
    assert len(life.having("queued")) == len(life.having("scheduled")) == 1


def live(life: type[Stage], examples: int) -> Coverage:
    """Live through so many examples. Returns what was reached, in them and before."""
    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=examples, stateful_step_count=STEPS, deadline=None, database=None, print_blob=False,
            report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        ),
    )  # fmt: skip
    print(life.coverage)
    return life.coverage


@pytest.mark.timeout(600)  # the shortest failing life takes some minutes to find
def test_a_life_is_as_the_contract_has_it(ledger: Ledger) -> None:
    """The same lives every time, and they reach everything there is to reach."""
    Life.ledger, Life.coverage = ledger, Coverage()
    for walk in (crash_three_times, end_between_two_attempts, replay_at_a_pace):
        walk(Life())
    reached = live(seed(20261124)(Life), QUICK)
    every = Life.setup_state()
    assert set(reached.rules) == {rule.function.__name__ for rule in (*every.rules, *every.initializers)}
    assert set(reached.statuses) == STATUSES
    assert set(reached.transitions) == TRANSITIONS
    assert set(reached.crashes) == {0, 1, 2, MOST_CRASHES}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_long_lives(ledger: Ledger) -> None:
    """Others every time."""

    class Other(Life):
        swarm = True

    Other.ledger, Other.coverage = ledger, Coverage()
    live(Other, LONG)
