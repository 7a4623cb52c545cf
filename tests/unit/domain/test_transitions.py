"""Only the transitions of contract section 3 leave `running`, and each failure class takes its own (section 5)."""

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.job import FINISHED, Status
from accepted.domain.retry import Retry
from accepted.domain.transitions import MAX_CRASHES, MAX_MESSAGE, RunningAttempt, Transition

FROM_RUNNING = {Status.SUCCEEDED, Status.RETRYING, Status.FAILED, Status.CANCELLED, Status.QUEUED}
RETRIED = {FailureClass.TRANSIENT, FailureClass.TIMEOUT, FailureClass.RATE_LIMITED}
chances = st.floats(0, 1, exclude_max=True)
classes = st.sampled_from([c for c in FailureClass if c not in (FailureClass.EXPIRED, FailureClass.CANCELLED)])


@st.composite
def running_attempts(draw: st.DrawFn) -> RunningAttempt:
    most = draw(st.integers(1, 10))
    attempt = draw(st.integers(1, most))
    return RunningAttempt(
        job_id=draw(st.uuids()),
        attempt=attempt,
        worker_id=draw(st.uuids()),
        max_attempts=most,
        crashes=draw(st.integers(0, min(attempt - 1, MAX_CRASHES - 1))),
        retry=Retry(max_attempts=most, schedule=(1.0, 5.0)),
    )


@st.composite
def any_transition(draw: st.DrawFn) -> Transition:
    running, chance, message = draw(running_attempts()), draw(chances), draw(st.text())
    return draw(
        st.sampled_from(
            [
                transitions.succeeded(running, "{}"),
                transitions.failed(running, draw(classes), message, chance, draw(st.none() | st.floats(0, 1e6))),
                transitions.crashed(running, chance),
                transitions.handed_back(running),
                transitions.unserved(running, "a.type"),
                transitions.deferred(running, draw(classes), message, draw(st.floats(0, 1e6)), "example.org"),
                transitions.unrecordable(running),
                transitions.cancelled(running),
            ]
        )
    )


def test_a_job_without_a_handler_waits_longer_each_time_and_is_not_charged() -> None:
    running = RunningAttempt(
        job_id=UUID(int=1), attempt=1, worker_id=UUID(int=2), max_attempts=3, crashes=0, retry=Retry(3)
    )
    waits = []
    for _ in range(8):
        made = transitions.unserved(running, "a.type")
        assert (made.status, made.extra_attempts, made.crashes) == (Status.QUEUED, 1, 0)
        waits.append(made.wait)
        running = replace(running, attempt=running.attempt + 1, max_attempts=running.max_attempts + 1)
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


@given(any_transition())
def test_every_transition_is_legal_and_whole(transition: Transition) -> None:
    assert transition.status in FROM_RUNNING
    assert (transition.wait is None) == (transition.status in FINISHED), (
        "a waiting job has a row in the outbox, no other has"
    )
    assert transition.wait is None or transition.wait >= 0
    assert (transition.result is not None) == (transition.status == Status.SUCCEEDED)
    if transition.error is not None:
        error = json.loads(transition.error)
        assert set(error) == {"class", "message", "attempt"}
        assert error["class"] in set(FailureClass)
        assert error["attempt"] == transition.running.attempt
        assert "\0" not in error["message"]
    assert transition.error is not None or transition.status in (Status.SUCCEEDED, Status.QUEUED)


@given(running_attempts(), classes, chances)
def test_a_job_is_retried_only_while_it_has_attempts_and_a_reason(
    running: RunningAttempt, kind: FailureClass, chance: float
) -> None:
    made = transitions.failed(running, kind, "x", chance)
    if kind in RETRIED and running.attempt < running.max_attempts:
        assert made.status == Status.RETRYING
        assert made.wait == running.retry.wait(running.failures, chance)
    elif kind is not FailureClass.CRASHED:
        assert (made.status, made.wait) == (Status.FAILED, None)
    assert made.outcome == kind


def waits_until_the_end(running: RunningAttempt, hand_backs: list[bool]) -> list[float]:
    """The waits of a job that fails for as long as it may, or is handed back where the list says so."""
    found: list[float] = []
    for hand_back in [*hand_backs, *[False] * 100]:
        if hand_back:
            running = replace(
                running, max_attempts=running.max_attempts + transitions.handed_back(running).extra_attempts
            )
        else:
            made = transitions.failed(running, FailureClass.TRANSIENT, "x", 0.0)
            if made.wait is None:
                return found
            found.append(made.wait)
        running = replace(running, attempt=running.attempt + 1)
    raise AssertionError("a job that fails every time must come to an end")


@given(st.integers(1, 10), st.integers(0, 30), st.lists(st.booleans(), max_size=20))
def test_every_budget_goes_through_the_schedule_from_its_start(most: int, spent: int, hand_backs: list[bool]) -> None:
    """A manual retry after `spent` attempts, and hand-backs anywhere: neither skips nor repeats a wait."""
    policy = Retry(max_attempts=most, schedule=(1.0, 2.0, 3.0), jitter=0.0)
    fresh = RunningAttempt(
        job_id=UUID(int=1), attempt=spent + 1, worker_id=UUID(int=2), max_attempts=spent + most, crashes=0, retry=policy
    )  # fmt: skip
    assert waits_until_the_end(fresh, hand_backs) == [policy.wait(k, 0.0) for k in range(1, most)]


@given(running_attempts(), chances)
def test_a_crash_waits_as_a_failure_would(running: RunningAttempt, chance: float) -> None:
    made = transitions.crashed(running, chance)
    if made.status == Status.RETRYING:
        assert made.wait == transitions.failed(running, FailureClass.TRANSIENT, "x", chance).wait


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 100))
def test_a_changed_policy_still_gives_a_place_on_the_schedule(attempt: int, left: int, now: int) -> None:
    running = RunningAttempt(
        job_id=UUID(int=1), attempt=attempt, worker_id=UUID(int=2), max_attempts=attempt + left, crashes=0,
        retry=Retry(max_attempts=now),
    )  # fmt: skip
    assert 1 <= running.failures <= attempt


@pytest.mark.parametrize("kind", [FailureClass.INVALID, FailureClass.AUTH, FailureClass.NOT_FOUND])
@given(running=running_attempts())
def test_classes_that_are_not_retried_are_dead_letters_at_once(running: RunningAttempt, kind: FailureClass) -> None:
    assert transitions.failed(running, kind, "x", 0.5).status == Status.FAILED


@given(running_attempts(), chances)
def test_the_third_crash_is_the_last(running: RunningAttempt, chance: float) -> None:
    made = transitions.crashed(running, chance)
    assert made.crashes == 1
    dead = running.crashes + 1 >= 3 or running.attempt >= running.max_attempts
    assert (made.status == Status.FAILED) == dead
    error = json.loads(made.error or "")
    assert error["class"] == "crashed"
    assert f"crash {running.crashes + 1}" in error["message"]
    assert ("at most 3 are allowed" in error["message"]) == (running.crashes + 1 >= 3)


@given(running_attempts())
def test_handing_back_costs_no_attempt(running: RunningAttempt) -> None:
    made = transitions.handed_back(running)
    assert (made.status, made.extra_attempts, made.crashes, made.error) == (Status.QUEUED, 1, 0, None)


@given(running_attempts())
def test_a_deferral_costs_no_attempt_and_says_why(running: RunningAttempt) -> None:
    made = transitions.deferred(running, FailureClass.TIMEOUT, "deferred for x: y", 7.5, "x")
    assert (made.status, made.wait, made.extra_attempts, made.crashes) == (Status.RETRYING, 7.5, 1, 0)
    assert (made.outcome, made.target) == ("deferred", "x")
    assert json.loads(made.error or "") == {
        "class": "timeout", "message": "deferred for x: y", "attempt": running.attempt,
    }  # fmt: skip


@given(running_attempts(), st.text(alphabet=st.characters(), max_size=3000))
def test_any_text_can_be_the_message_of_an_error(running: RunningAttempt, message: str) -> None:
    error = transitions.failed(running, FailureClass.TRANSIENT, message, 0.0).error or ""
    error.encode()
    assert len(json.loads(error)["message"]) <= MAX_MESSAGE


def test_a_lone_surrogate_and_a_nul_in_a_message() -> None:
    running = RunningAttempt(
        job_id=UUID(int=1), attempt=1, worker_id=UUID(int=2), max_attempts=1, crashes=0, retry=Retry()
    )
    assert "\\u0000" not in (transitions.failed(running, FailureClass.INVALID, "\ud800\0", 0.0).error or "")


@given(running_attempts(), chances, st.floats(0, 1e9))
def test_no_job_runs_before_retry_after(running: RunningAttempt, chance: float, asked: float) -> None:
    made = transitions.failed(running, FailureClass.RATE_LIMITED, "x", chance, asked)
    if made.status == Status.RETRYING:
        assert (made.wait or 0) >= min(asked, 86400)
