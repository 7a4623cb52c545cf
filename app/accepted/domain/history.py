"""The history of a job, derived from its row and its attempts. There is no table of events.

Each state has a number that follows from the status, the attempt and the manual retries so far, and the numbers only
rise. The number is the id of the event, so a client that reconnects continues after the last number it saw.
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
"""Numbers for each attempt with what follows it, and for each manual retry, which takes an ended job back to waiting
at the same attempt, while the numbers must go on rising."""

_QUEUED_AGAIN = frozenset({FailureClass.CRASHED, "handed_back"})
"""Outcomes after which the job is queued at once; after the others it is retrying."""


class PastAttempt(Protocol):
    """The fields of an attempt that its history needs."""

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


def events(job: Job, attempts: Sequence[PastAttempt], after: int = 0) -> list[Event]:
    """The events after number `after`, up to the present state. `attempts` are sorted by number.

    States that the ledger does not record are left out: how long a retry was queued, how a job ended before a manual
    retry. So are attempts that began after `job` was read.
    """
    seen = [one for one in attempts if one.attempt <= job.attempt]
    found = [_event(Status.QUEUED, 0, 0, job.created_at)] if seen else []
    for one in seen:
        found += _events_of(one, job)
    now = _event(Status(job.status), job.attempt, _retries(job, job.attempt), job.finished_at)
    if not found or now.number > found[-1].number:
        found.append(now)
    return [event for event in found if event.number > after]


def _events_of(one: PastAttempt, job: Job) -> Iterator[Event]:
    before, after = _retries(job, one.attempt - 1), _retries(job, one.attempt)
    yield _event(Status.RUNNING, one.attempt, before, one.started_at)
    if one.finished_at is None or one.attempt == job.attempt:
        return
    if after > before:
        if one.outcome == FailureClass.CANCELLED:
            yield _event(Status.CANCELLED, one.attempt, before, one.finished_at)
        yield _event(Status.QUEUED, one.attempt, after, None)
    else:
        waits = Status.QUEUED if one.outcome in _QUEUED_AGAIN else Status.RETRYING
        yield _event(waits, one.attempt, before, one.finished_at)


def _retries(job: Job, attempt: int) -> int:
    """Manual retries up to and after `attempt`."""
    return sum(one <= attempt for one in job.retried_after or ())


def _event(status: Status, attempt: int, retries: int, at: datetime | None) -> Event:
    rank = _END if status in FINISHED else _RANK[status]
    return Event((attempt + retries) * _ROUND + rank, status, attempt, at)
