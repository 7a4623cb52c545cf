"""Why an attempt failed, as the closed set of classes of contract section 5, and the exceptions that name one."""

import time
from enum import StrEnum

from accepted.domain.retry import parse_retry_after


class FailureClass(StrEnum):
    """The `class` of a job's `error`. What each one leads to is decided in `accepted.domain.transitions`."""

    TRANSIENT = "transient"
    RATE_LIMITED = "rate_limited"
    INVALID = "invalid"
    AUTH = "auth"
    NOT_FOUND = "not_found"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


AT_ONCE = frozenset({FailureClass.INVALID, FailureClass.AUTH, FailureClass.NOT_FOUND})
"""Classes that no retry can mend; of `NOT_FOUND`, a type may think otherwise."""


class OnNotFound(StrEnum):
    """What a type makes of `not_found`: a dead letter, a failure like others, or a success with nothing done."""

    FAIL = "fail"
    RETRY = "retry"
    SKIP = "skip"


class HandlerError(Exception):
    """Raised by a handler to say which failure class this is. Its text is shown to the client."""

    failure_class = FailureClass.TRANSIENT
    retry_after: float | None = None

    @property
    def worth_another_try(self) -> bool:
        return self.failure_class not in AT_ONCE


class TransientError(HandlerError):
    """It may work next time: retried on the schedule."""


class RateLimited(HandlerError):
    """The target asked for patience: retried on the schedule, but not before `retry_after`.

    That is in seconds, or a `Retry-After` field as it came (seconds or a date); what cannot be read counts as absent.
    """

    failure_class = FailureClass.RATE_LIMITED

    def __init__(self, message: str = "rate limited", *, retry_after: float | str | None = None) -> None:
        super().__init__(message)
        self.retry_after = _seconds(retry_after)


class TargetTimeout(HandlerError):
    """The target did not answer in full before the deadline of the call: retried on the schedule."""

    failure_class = FailureClass.TIMEOUT


class InvalidJob(HandlerError):
    """It can never work as submitted: dead letter at once."""

    failure_class = FailureClass.INVALID


class AuthError(HandlerError):
    """The target refused our credentials: dead letter at once, to be replayed once they are mended."""

    failure_class = FailureClass.AUTH


class NotFound(HandlerError):
    """The target says that the thing is not there: what its type makes of it, `OnNotFound`."""

    failure_class = FailureClass.NOT_FOUND


class LeaseLost(HandlerError):
    """The attempt is over, or another worker has it: nothing that it still does counts. Raised by `ctx`."""

    failure_class = FailureClass.CRASHED

    def __init__(self) -> None:
        super().__init__("this attempt has lost its lease")


def _seconds(retry_after: float | str | None) -> float | None:
    if isinstance(retry_after, str):
        return parse_retry_after(retry_after, time.time())
    return None if retry_after is None else float(retry_after)
