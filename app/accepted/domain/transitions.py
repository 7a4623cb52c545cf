"""The transitions that leave `running`, as values. They are built only here; `accepted.storage.attempts.completion`
applies them.

Each transition carries its fence: the job, the attempt and the worker that must still hold the lease. A row that does
not match stays as it is, so a late worker, a duplicate message and a second rescuer change nothing.
"""

from uuid import UUID

import msgspec

from accepted.domain.failures import AT_ONCE, FailureClass, OnNotFound
from accepted.domain.job import NewJob, Status
from accepted.domain.json_text import storable
from accepted.domain.references import Lease
from accepted.domain.retry import Retry

MAX_CRASHES = 3
"""A job that crashed so often is a dead letter, whatever `max_attempts` says."""

VANISHED = "the worker died, or sent no heartbeat for longer than its lease, while it ran this job"

MAX_MESSAGE = 2000
"""Characters of an error's text that are kept."""

UNSERVED_WAIT = 2.0
MAX_UNSERVED_WAIT = 60.0
"""Seconds before a job is offered again when a worker had no handler for it: the first wait, and the longest."""

ON_REQUEST = "cancelled on request"

DEFERRED = "deferred"
"""The outcome of an attempt that ended before its call, because the host is deferred."""

SKIPPED = '{"skipped":true}'
"""The result of a `not_found` job whose type says `skip`."""


class RunningAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An open attempt as its worker or the rescuer knows it: the fence, and what its transition depends on.

    `ends_alone`: it is known that no webhook and no other job follows from the job's end.
    """

    job_id: UUID
    attempt: int
    worker_id: UUID
    max_attempts: int
    crashes: int
    retry: Retry
    not_found: OnNotFound = OnNotFound.FAIL
    ends_alone: bool = False

    @property
    def failures(self) -> int:
        """The position on the retry schedule: the number, from 1, that a failure now would have in the present budget.

        It is computed from the attempts left, because a manual retry raises `max_attempts` by a whole budget and a
        hand-back raises it by one. It is cut to 1 … `attempt`, because the type's policy may have changed meanwhile.
        """
        left = self.max_attempts - self.attempt
        return min(max(self.retry.max_attempts - left, 1), self.attempt)

    @property
    def lease(self) -> Lease:
        return Lease(self.job_id, self.attempt, self.worker_id)


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One transition from `running`. `outcome` goes into the attempt's row, `wait` (seconds) into the outbox.

    `progress` is the attempt's last progress, as JSON text. `children` are jobs that become real with the success.
    `retry_after` (seconds) is what the target asked for; it is not stored. `answer` is what the called server answered,
    as JSON text; it is stored with the attempt, and so is `target`, the host for which the attempt was deferred.
    `where` (file:line) is the place in the handler that failed; it is only logged.
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
    target: str | None = None
    where: str | None = None


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
    """running -> retrying if the class is retried and attempts are left, else running -> failed.

    running -> succeeded if the class is `not_found` and the type says `skip`.
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
    """The worker's heartbeat stopped, or the attempt's process died.

    running -> queued at the first crash, -> retrying at the second, -> failed at the third.

    The first crash is usually the worker's fault (a deploy, a lost machine), so the job does not wait.
    """
    kind, crashes = FailureClass.CRASHED, running.crashes + 1
    message = f"{message}: crash {crashes}"
    if crashes >= MAX_CRASHES or running.attempt >= running.max_attempts:
        why = f"{message}, and at most {MAX_CRASHES} are allowed" if crashes >= MAX_CRASHES else message
        return msgspec.structs.replace(_dead(running, kind, why), crashes=1)
    error = _error(running, kind, message)
    if crashes == 1:
        return Transition(running=running, status=Status.QUEUED, outcome=kind, error=error, wait=0.0, crashes=1)
    wait = running.retry.wait(running.failures, chance)
    return Transition(running=running, status=Status.RETRYING, outcome=kind, error=error, wait=wait, crashes=1)


def handed_back(running: RunningAttempt) -> Transition:
    """running -> queued because the worker stops. The attempt is not charged: `max_attempts` grows by one."""
    return Transition(running=running, status=Status.QUEUED, outcome="handed_back", wait=0.0, extra_attempts=1)


def unserved(running: RunningAttempt, type_name: str) -> Transition:
    """running -> queued because this worker has no handler for the type. The attempt is not charged.

    The job waits, longer each time, so that a worker with a handler can take it first.
    """
    wait = min(UNSERVED_WAIT * 2.0 ** min(running.attempt - running.failures, 10), MAX_UNSERVED_WAIT)
    error = _error(running, FailureClass.TRANSIENT, f"handed back: no handler for type {type_name!r} in this worker")
    return Transition(
        running=running, status=Status.QUEUED, outcome="handed_back", error=error, wait=wait, extra_attempts=1
    )


def deferred(running: RunningAttempt, kind: FailureClass, message: str, wait: float, target: str) -> Transition:
    """running -> retrying, `wait` seconds from now, because `target`, the host that it would call, is deferred.

    Nothing was called, so nothing is charged: the budget grows by one. `kind`: the failure of the host.
    """
    error = _error(running, kind, message)
    return Transition(
        running=running, status=Status.RETRYING, outcome=DEFERRED, error=error, wait=wait, extra_attempts=1,
        target=target,
    )  # fmt: skip


def cancelled(running: RunningAttempt) -> Transition:
    """running -> cancelled because a client asked for it, and the handler stopped."""
    error = _error(running, FailureClass.CANCELLED, ON_REQUEST)
    return Transition(running=running, status=Status.CANCELLED, outcome=FailureClass.CANCELLED, error=error)


def unrecordable(running: RunningAttempt) -> Transition:
    """running -> failed because the ledger refuses to store the outcome."""
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
