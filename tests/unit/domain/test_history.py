"""The numbers of a job's events only ever rise, whatever moment the job is looked at: a resumed stream loses none."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain import history
from accepted.domain.job import FINISHED, Job, Status

EPOCH = datetime(2026, 11, 23, tzinfo=UTC)


class PastAttempt(msgspec.Struct):
    attempt: int
    started_at: datetime
    finished_at: datetime | None = None
    outcome: str | None = None


Moment = tuple[Job, list[PastAttempt]]


def job_in(status: Status, attempt: int, retried_after: list[int] | None = None) -> Job:
    return Job(
        id=UUID(int=7), tenant="t", type="noop", queue="q", status=status, priority=4, attempt=attempt, max_attempts=9,
        payload="{}", created_at=EPOCH, run_at=EPOCH,
        finished_at=EPOCH + timedelta(hours=1) if status in FINISHED else None, retried_after=retried_after,
    )  # fmt: skip


@st.composite
def lives(draw: st.DrawFn) -> list[Moment]:
    """A job at each moment of a legal life, with the attempts that the ledger then has."""
    runs: list[PastAttempt] = []
    retried_after: list[int] = []
    moments: list[Moment] = []

    def look(status: Status) -> None:
        job = job_in(status, len(runs), list(retried_after) or None)
        moments.append((job, [msgspec.structs.replace(run) for run in runs]))

    def wait() -> None:
        if draw(st.booleans()):
            look(Status.BLOCKED)
        if draw(st.booleans()):
            look(Status.SCHEDULED)
        look(Status.QUEUED)

    def run() -> PastAttempt:
        runs.append(PastAttempt(len(runs) + 1, EPOCH + timedelta(minutes=len(runs))))
        look(Status.RUNNING)
        runs[-1].finished_at = EPOCH + timedelta(minutes=len(runs), seconds=-30)
        return runs[-1]

    for life in range(draw(st.integers(1, 4))):
        if life:
            retried_after.append(len(runs))
        wait()
        for _ in range(draw(st.integers(0, 3))):
            last = run()
            last.outcome = draw(st.sampled_from(["transient", "timeout", "deferred", "crashed", "handed_back"]))
            if last.outcome in ("transient", "timeout", "deferred"):
                look(Status.RETRYING)
            look(Status.QUEUED)
        end = draw(st.sampled_from([Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.EXPIRED]))
        if end in (Status.SUCCEEDED, Status.FAILED):
            run().outcome = "succeeded" if end is Status.SUCCEEDED else "transient"
        look(end)
        if end is Status.SUCCEEDED:
            break
    return moments


@given(lives())
def test_numbers_rise_strictly_at_every_moment(life: list[Moment]) -> None:
    for job, runs in life:
        numbers = [event.number for event in history.events(job, runs)]
        assert numbers == sorted(set(numbers))
        assert numbers[0] > 0


@given(lives())
def test_a_live_client_gets_each_state_in_order(life: list[Moment]) -> None:
    seen, heard = 0, []
    for job, runs in life:
        for event in history.events(job, runs, seen):
            assert event.number > seen
            seen = event.number
            heard.append((event.status, event.attempt))
    assert heard == [(job.status, job.attempt) for job, _ in life]


@given(lives())
def test_a_late_client_gets_what_was_recorded_and_the_end_last(life: list[Moment]) -> None:
    job, runs = life[-1]
    events = history.events(job, runs)
    assert (events[-1].status, events[-1].attempt) == (job.status, job.attempt)
    assert [event.attempt for event in events if event.status == "running"] == [run.attempt for run in runs]
    assert history.events(job, runs, events[-1].number) == []


@given(lives(), st.data())
def test_an_event_has_the_same_number_and_status_later(life: list[Moment], data: st.DataObject) -> None:
    live = {event.number: event.status for job, runs in life for event in history.events(job, runs)}
    job, runs = data.draw(st.sampled_from(life))
    assert {event.number: event.status for event in history.events(job, runs)}.items() <= live.items()


def test_manual_retries_come_after_the_ends_that_they_undo() -> None:
    """Even of a job that is cancelled and retried again and again before it runs."""
    runs = [PastAttempt(1, EPOCH, EPOCH, "transient")]
    moments = [
        (job_in(Status.FAILED, 1), "failed"),
        (job_in(Status.SCHEDULED, 1, [1]), "scheduled"),
        (job_in(Status.QUEUED, 1, [1]), "queued"),
        (job_in(Status.CANCELLED, 1, [1]), "cancelled"),
        (job_in(Status.QUEUED, 1, [1, 1]), "queued"),
        (job_in(Status.EXPIRED, 1, [1, 1]), "expired"),
        (job_in(Status.QUEUED, 1, [1, 1, 1]), "queued"),
    ]
    seen = 0
    for job, status in moments:
        told = history.events(job, runs, seen)
        assert told[-1].status == status
        seen = told[-1].number
    runs.append(PastAttempt(2, EPOCH))
    assert [e.status for e in history.events(job_in(Status.RUNNING, 2, [1, 1, 1]), runs, seen)] == ["running"]


def test_an_attempt_that_began_after_the_job_was_read_comes_next_time() -> None:
    """What lies between the two reads may be a retry, which moves the numbers."""
    runs = [PastAttempt(1, EPOCH, EPOCH, "transient"), PastAttempt(2, EPOCH)]
    assert [e.status for e in history.events(job_in(Status.FAILED, 1), runs)] == ["queued", "running", "failed"]
