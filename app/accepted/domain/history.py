"""The history of a job, derived from its row and its attempts: no table of events is needed to tell it.

Every state that a job can be in has a number that follows from the status, the attempt and the explicit retries
before it alone, and only ever rises. It is the id of the event, so a client that was cut off goes on after the last
number it saw.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from accepted.domain.failures import FailureClass
from accepted.domain.job import FINISHED, Job, Status

_RANK = {Status.RUNNING: 0, Status.BLOCKED: 1, Status.SCHEDULED: 2, Status.RETRYING: 2, Status.QUEUED: 3}
_END = 4
_ROUND = 5
"""Numbers of one round: of an attempt and what follows it, or of an explicit retry, which takes an ended job back to
waiting at the same attempt and so needs numbers beyond that end."""

_NOT_COUNTED = frozenset({FailureClass.CRASHED, "handed_back"})
"""Outcomes after which the job was queued again rather than made to wait."""


class Run(Protocol):
    """What the timeline needs of an attempt."""

    @property
    def attempt(self) -> int: ...
    @property
    def started_at(self) -> datetime: ...
    @property
    def finished_at(self) -> datetime | None: ...
    @property
    def outcome(self) -> str | None: ...


class Event(msgspec.Struct, frozen=True):
    """The job came into `status` at `at` (None where the ledger keeps no time for it)."""

    number: int
    status: str
    attempt: int
    at: datetime | None = None


def timeline(job: Job, runs: Sequence[Run], after: int = 0) -> list[Event]:
    """The events beyond number `after`, up to the present state. `runs` are sorted by attempt.

    States that nothing recorded (how long a retry then sat queued, how a job ended before it was retried) are passed
    over, and so are runs that began after `job` was read.
    """
    seen = [run for run in runs if run.attempt <= job.attempt]
    events = [_event(Status.QUEUED, 0, 0, job.created_at)] if seen else []
    for run in seen:
        events += _events_of(run, job)
    now = _event(Status(job.status), job.attempt, _retries(job, job.attempt), job.finished_at)
    if not events or now.number > events[-1].number:
        events.append(now)
    return [event for event in events if event.number > after]


def _events_of(run: Run, job: Job) -> Iterator[Event]:
    before, after = _retries(job, run.attempt - 1), _retries(job, run.attempt)
    yield _event(Status.RUNNING, run.attempt, before, run.started_at)
    if run.finished_at is None or run.attempt == job.attempt:
        return
    if after > before:
        if run.outcome == FailureClass.CANCELLED:
            yield _event(Status.CANCELLED, run.attempt, before, run.finished_at)
        yield _event(Status.QUEUED, run.attempt, after, None)
    else:
        waits = Status.QUEUED if run.outcome in _NOT_COUNTED else Status.RETRYING
        yield _event(waits, run.attempt, before, run.finished_at)


def _retries(job: Job, attempt: int) -> int:
    """How often somebody asked for another run up to the end of `attempt`, after it included."""
    return sum(one <= attempt for one in job.retried_after or ())


def _event(status: Status, attempt: int, retries: int, at: datetime | None) -> Event:
    rank = _END if status in FINISHED else _RANK[status]
    return Event((attempt + retries) * _ROUND + rank, status, attempt, at)
