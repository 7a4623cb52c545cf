"""The history of a job, derived from its row and its attempts: no table of events is needed to tell it.

Every state that a job can be in has a number that follows from the status and the attempt alone, and only ever
rises. It is the id of the event, so a client that was cut off goes on after the last number it saw.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from app.domain.failures import FailureClass
from app.domain.job import FINISHED, Job, Status

_RANK = {Status.BLOCKED: 0, Status.SCHEDULED: 1, Status.RETRYING: 1, Status.QUEUED: 2, Status.RUNNING: 0}
_END = 3
_PER_ATTEMPT = 4

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

    States that nothing recorded (how long a retry then sat queued) are passed over.
    """
    events = [_event(Status.QUEUED, 0, job.created_at)] if runs else []
    for run in runs:
        events.append(_event(Status.RUNNING, run.attempt, run.started_at))
        if run.finished_at is not None and run.attempt < job.attempt:
            events.append(_event(_after(run.outcome), run.attempt, run.finished_at))
    now = _event(Status(job.status), job.attempt, job.finished_at)
    if not events or now.number > events[-1].number:
        events.append(now)
    return [event for event in events if event.number > after]


def _after(outcome: str | None) -> Status:
    """What became of the job when a run that was not its last had ended so."""
    if outcome == FailureClass.CANCELLED:
        return Status.CANCELLED
    return Status.QUEUED if outcome in _NOT_COUNTED else Status.RETRYING


def _event(status: Status, attempt: int, at: datetime | None) -> Event:
    rank = _END if status in FINISHED else _RANK[status]
    return Event(attempt * _PER_ATTEMPT + rank, status, attempt, at)
