"""The failure classes of contract section 5, and the exceptions with which a handler names one."""

import re
import time
from enum import StrEnum

from accepted.domain.retry import MAX_RETRY_AFTER, parse_retry_after


class FailureClass(StrEnum):
    """The `class` of a job's `error`. `accepted.domain.transitions` decides what each one leads to."""

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
"""Classes that are not retried, because a retry cannot succeed. A type may choose otherwise for `NOT_FOUND`."""


_VARIABLE = re.compile(
    r"(?P<before>(?:HTTP(?:/[0-9.]+)?|status(?: code)?|answered)[ :=]{1,2})(?P<status>[1-5]\d\d)(?!\d)"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|0x[0-9a-f]+|\d+",
    re.IGNORECASE | re.ASCII,
)
"""What differs from message to message: UUIDs, hexadecimal and other numbers, but not an HTTP status. It is here, and
not in SQL, because PostgreSQL takes 50 ms for the worst message."""


class OnNotFound(StrEnum):
    """What a type does about `not_found`: dead letter, retry on the schedule, or success without work."""

    FAIL = "fail"
    RETRY = "retry"
    SKIP = "skip"


class HandlerError(Exception):
    """Raised by a handler to name the failure class. Clients see its text."""

    failure_class = FailureClass.TRANSIENT
    retry_after: float | None = None

    @property
    def worth_another_try(self) -> bool:
        return self.failure_class not in AT_ONCE


class TransientError(HandlerError):
    """It may work next time. Retried on the schedule."""


class RateLimited(HandlerError):
    """The target limits the rate. Retried on the schedule, but not before `retry_after`.

    `retry_after` is in seconds, or the value of a `Retry-After` field (seconds or a date). A value that cannot be read
    counts as absent.
    """

    failure_class = FailureClass.RATE_LIMITED

    def __init__(self, message: str = "rate limited", *, retry_after: float | str | None = None) -> None:
        super().__init__(message)
        self.retry_after = _seconds(retry_after)


class TargetTimeout(HandlerError):
    """The target did not answer in full before the deadline of the call. Retried on the schedule."""

    failure_class = FailureClass.TIMEOUT


class InvalidJob(HandlerError):
    """The job can never work as submitted. Dead letter at once."""

    failure_class = FailureClass.INVALID


class AuthError(HandlerError):
    """The target refused the credentials. Dead letter at once; replay it when they are right."""

    failure_class = FailureClass.AUTH


class NotFound(HandlerError):
    """The target has no such thing. The type's `OnNotFound` decides."""

    failure_class = FailureClass.NOT_FOUND


class LeaseLost(HandlerError):
    """The attempt is over, or another worker runs the job, so its writes no longer count. Raised by `ctx`."""

    failure_class = FailureClass.CRASHED

    def __init__(self) -> None:
        super().__init__("this attempt has lost its lease")


def _seconds(retry_after: float | str | None) -> float | None:
    if isinstance(retry_after, str):
        return parse_retry_after(retry_after, time.time())
    if retry_after is None or retry_after != retry_after:  # not a number: PostgreSQL could not add it to a time
        return None
    return float(min(max(retry_after, 0.0), MAX_RETRY_AFTER))


def pattern(message: str) -> str:
    """What a message has in common with those that differ only in numbers and ids, for each of which it has `…`."""
    return _VARIABLE.sub(_without_numbers, message)


def _without_numbers(found: re.Match[str]) -> str:
    if found["status"] is None:
        return "…"
    return re.sub(r"[0-9]+", "…", found["before"]) + found["status"]
