"""The numbers of a job's events only ever rise, whatever moment the job is looked at: a resumed stream loses none."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from app.domain.job import FINISHED, Job, Status
from app.domain.timeline import timeline

EPOCH = datetime(2026, 11, 23, tzinfo=UTC)


class Run(msgspec.Struct):
    attempt: int
    started_at: datetime
    finished_at: datetime | None = None
    outcome: str | None = None


Moment = tuple[Job, list[Run]]


def job_in(status: Status, attempt: int) -> Job:
    return Job(
        id=UUID(int=7), tenant="t", type="noop", queue="q", status=status, priority=4, attempt=attempt, max_attempts=9,
        payload="{}", created_at=EPOCH, run_at=EPOCH,
        finished_at=EPOCH + timedelta(hours=1) if status in FINISHED else None,
    )  # fmt: skip


@st.composite
def lives(draw: st.DrawFn) -> list[Moment]:
    """A job at each moment of a legal life, with the attempts that the ledger then has."""
    runs: list[Run] = []
    moments: list[Moment] = []

    def look(status: Status, attempt: int) -> None:
        moments.append((job_in(status, attempt), [msgspec.structs.replace(run) for run in runs]))

    if draw(st.booleans()):
        look(Status.SCHEDULED, 0)
    look(Status.QUEUED, 0)
    for attempt in range(1, draw(st.integers(0, 4)) + 1):
        runs.append(Run(attempt, EPOCH + timedelta(minutes=attempt)))
        look(Status.RUNNING, attempt)
        runs[-1].finished_at = EPOCH + timedelta(minutes=attempt, seconds=30)
        runs[-1].outcome = draw(st.sampled_from(["transient", "timeout", "crashed", "handed_back"]))
        if runs[-1].outcome in ("transient", "timeout"):
            look(Status.RETRYING, attempt)
        look(Status.QUEUED, attempt)
    attempt = len(runs)
    end = draw(st.sampled_from([Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.EXPIRED]))
    if end in (Status.SUCCEEDED, Status.FAILED):
        attempt += 1
        runs.append(Run(attempt, EPOCH + timedelta(minutes=attempt)))
        look(Status.RUNNING, attempt)
        runs[-1].finished_at = EPOCH + timedelta(hours=1)
        runs[-1].outcome = "succeeded" if end is Status.SUCCEEDED else "transient"
    look(end, attempt)
    return moments


@given(lives())
def test_numbers_rise_strictly_at_every_moment(life: list[Moment]) -> None:
    for job, runs in life:
        numbers = [event.number for event in timeline(job, runs)]
        assert numbers == sorted(set(numbers))
        assert numbers[0] > 0


@given(lives())
def test_one_who_follows_hears_of_each_moment_in_order(life: list[Moment]) -> None:
    seen, heard = 0, []
    for job, runs in life:
        for event in timeline(job, runs, seen):
            assert event.number > seen
            seen = event.number
            heard.append((event.status, event.attempt))
    assert heard == [(job.status, job.attempt) for job, _ in life]


@given(lives())
def test_one_who_comes_late_hears_what_was_recorded_and_the_end_last(life: list[Moment]) -> None:
    job, runs = life[-1]
    events = timeline(job, runs)
    assert (events[-1].status, events[-1].attempt) == (job.status, job.attempt)
    assert [event.attempt for event in events if event.status == "running"] == [run.attempt for run in runs]
    assert timeline(job, runs, events[-1].number) == []


@given(lives(), st.data())
def test_what_was_told_live_has_the_same_number_and_status_later(life: list[Moment], data: st.DataObject) -> None:
    live = {event.number: event.status for job, runs in life for event in timeline(job, runs)}
    job, runs = data.draw(st.sampled_from(life))
    assert {event.number: event.status for event in timeline(job, runs)}.items() <= live.items()


def test_an_explicit_retry_of_a_finished_job_is_told_after_its_end() -> None:
    runs = [Run(1, EPOCH, EPOCH, "transient")]
    seen = timeline(job_in(Status.FAILED, 1), runs)[-1].number
    runs.append(Run(2, EPOCH))
    assert [(e.status, e.attempt) for e in timeline(job_in(Status.RUNNING, 2), runs, seen)] == [("running", 2)]
