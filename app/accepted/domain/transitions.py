"""The transitions that leave `running`, as values. Built here and nowhere else, applied by
`accepted.storage.attempts.completion`.

Each carries its fence: the job, the attempt and the worker that must still hold the lease. A row that no longer
matches is left alone, which is what makes a late worker, a duplicate message and a second rescuer harmless.
"""

from uuid import UUID

import msgspec

from accepted.domain.failures import AT_ONCE, FailureClass, OnNotFound
from accepted.domain.job import NewJob, Status
from accepted.domain.references import Lease
from accepted.domain.retry import Retry
from accepted.domain.text import storable

MAX_CRASHES = 3
"""A job that took its worker down this often is a dead letter, whatever `max_attempts` says."""

VANISHED = "the worker died, or was silent for longer than its lease, while it ran this job"

MAX_MESSAGE = 2000
"""Characters of an error's text that are kept."""

UNSERVED_WAIT = 2.0
MAX_UNSERVED_WAIT = 60.0
"""Seconds before a job is offered again after a worker had no handler for it: at first, and at most."""

ON_REQUEST = "cancelled on request"

NEEDED = "needed job"
"""How the message begins of a job that was cancelled because one that it needs did not succeed; no other begins so."""

DEFERRED = "deferred"
"""The outcome of an attempt that was given back before it called anybody."""

SKIPPED = '{"skipped":true}'
"""The result of a job that did not find what it was to work on, where its type says that this is fine."""


class RunningAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """A running attempt as its holder (or its rescuer) knows it: the fence, and what decides the next step."""

    job_id: UUID
    attempt: int
    worker_id: UUID
    max_attempts: int
    crashes: int
    retry: Retry
    not_found: OnNotFound = OnNotFound.FAIL

    @property
    def failures(self) -> int:
        """Which failure this one would be of the present budget, from 1: where on its schedule the job stands.

        An explicit retry raises `max_attempts` to a whole budget above `attempt`, a hand-back by one, so what is left
        tells. At the ends it is held to what is possible: a policy may have changed since the job was accepted.
        """
        left = self.max_attempts - self.attempt
        return min(max(self.retry.max_attempts - left, 1), self.attempt)

    @property
    def lease(self) -> Lease:
        return Lease(self.job_id, self.attempt, self.worker_id)


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One transition from `running`. `outcome` goes into the attempt's record; `wait` (seconds) into the outbox.

    `progress` is what the attempt said last, as JSON text; `children` are the jobs that become real with a success.
    `retry_after` (seconds) is how long the target asked to be left alone: it is not stored with the job. `answer` is
    what the attempt was answered by whom it called, as JSON text: stored with the attempt, and not with the job.
    """

    running: RunningAttempt
    status: Status
    outcome: str
    result: str | None = None
    error: str | None = None
    traceback: str | None = None
    wait: float | None = None
    crashes: int = 0
    extra_attempts: int = 0
    progress: str | None = None
    children: tuple[NewJob, ...] = ()
    retry_after: float | None = None
    answer: str | None = None


def succeeded(running: RunningAttempt, result: str) -> Transition:
    """running -> succeeded. `result` is JSON text."""
    return Transition(running=running, status=Status.SUCCEEDED, outcome="succeeded", result=result)


def failed(
    running: RunningAttempt,
    kind: FailureClass,
    message: str,
    chance: float,
    retry_after: float | None = None,
    traceback: str | None = None,
) -> Transition:
    """running -> retrying while the class allows it and attempts are left, else running -> failed.

    Or running -> succeeded, for what was not found and may be skipped.
    """
    if kind is FailureClass.NOT_FOUND and running.not_found is OnNotFound.SKIP:
        return succeeded(running, SKIPPED)
    if not _may_run_again(running, kind):
        return msgspec.structs.replace(_dead(running, kind, message, traceback), retry_after=retry_after)
    wait, error = running.retry.wait(running.failures, chance, retry_after), _error(running, kind, message)
    return Transition(
        running=running, status=Status.RETRYING, outcome=kind, error=error, traceback=traceback, wait=wait,
        retry_after=retry_after,
    )  # fmt: skip


def crashed(running: RunningAttempt, chance: float, message: str = VANISHED) -> Transition:
    """running -> queued when the worker fell silent or the attempt's own process died; on the schedule from the second
    crash on, failed at the third.

    The first crash is most often the worker's fault (a deploy, a lost machine), so the job does not wait for it.
    """
    kind, crashes = FailureClass.CRASHED, running.crashes + 1
    message = f"{message}: crash {crashes} of it"
    if crashes >= MAX_CRASHES or running.attempt >= running.max_attempts:
        why = f"{message}, and {MAX_CRASHES} are the most" if crashes >= MAX_CRASHES else message
        return msgspec.structs.replace(_dead(running, kind, why), crashes=1)
    error = _error(running, kind, message)
    if crashes == 1:
        return Transition(running=running, status=Status.QUEUED, outcome=kind, error=error, wait=0.0, crashes=1)
    wait = running.retry.wait(running.failures, chance)
    return Transition(running=running, status=Status.RETRYING, outcome=kind, error=error, wait=wait, crashes=1)


def handed_back(running: RunningAttempt) -> Transition:
    """running -> queued because the worker is stopping. The attempt is not charged: the budget grows by one."""
    return Transition(running=running, status=Status.QUEUED, outcome="handed_back", wait=0.0, extra_attempts=1)


def unserved(running: RunningAttempt, type_name: str) -> Transition:
    """running -> queued because the worker that took it has no handler for its type. Not charged, as in a hand-back.

    It waits a little, so that a worker that has one may be faster next time: longer each time, for as long as none is.
    """
    wait = min(UNSERVED_WAIT * 2.0 ** min(running.attempt - running.failures, 10), MAX_UNSERVED_WAIT)
    error = _error(running, FailureClass.TRANSIENT, f"handed back: no handler for type {type_name!r} in this worker")
    return Transition(
        running=running, status=Status.QUEUED, outcome="handed_back", error=error, wait=wait, extra_attempts=1
    )


def deferred(running: RunningAttempt, kind: FailureClass, message: str, wait: float) -> Transition:
    """running -> retrying, `wait` seconds from now, because the host that it would call is deferred.

    Nothing was called, so nothing is charged: the budget grows by one. `kind`: the failure of the host.
    """
    error = _error(running, kind, message)
    return Transition(
        running=running, status=Status.RETRYING, outcome=DEFERRED, error=error, wait=wait, extra_attempts=1
    )  # fmt: skip


def cancelled(running: RunningAttempt) -> Transition:
    """running -> cancelled because somebody asked, and the handler let go."""
    error = _error(running, FailureClass.CANCELLED, ON_REQUEST)
    return Transition(running=running, status=Status.CANCELLED, outcome=FailureClass.CANCELLED, error=error)


def unrecordable(running: RunningAttempt) -> Transition:
    """running -> failed because the ledger refuses to store what the attempt came to."""
    return _dead(running, FailureClass.INVALID, "the outcome of this attempt could not be stored")


def _may_run_again(running: RunningAttempt, kind: FailureClass) -> bool:
    patient = kind is FailureClass.NOT_FOUND and running.not_found is OnNotFound.RETRY
    return running.attempt < running.max_attempts and (patient or kind not in AT_ONCE)


def _dead(running: RunningAttempt, kind: FailureClass, message: str, traceback: str | None = None) -> Transition:
    error = _error(running, kind, message)
    return Transition(running=running, status=Status.FAILED, outcome=kind, error=error, traceback=traceback)


def _error(running: RunningAttempt, kind: FailureClass, message: str) -> str:
    error = {"class": kind, "message": storable(message, MAX_MESSAGE), "attempt": running.attempt}
    return msgspec.json.encode(error).decode()
