"""Why an attempt failed, as the closed set of classes of contract section 5, and the exceptions that name one."""

from enum import StrEnum


class FailureClass(StrEnum):
    """The `class` of a job's `error`. What each one leads to is decided in `app.domain.transitions`."""

    TRANSIENT = "transient"
    RATE_LIMITED = "rate_limited"
    INVALID = "invalid"
    AUTH = "auth"
    NOT_FOUND = "not_found"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class HandlerError(Exception):
    """Raised by a handler to say which failure class this is. Its text is shown to the client."""

    failure_class = FailureClass.TRANSIENT
    retry_after: float | None = None


class TransientError(HandlerError):
    """It may work next time: retried on the schedule."""


class RateLimited(HandlerError):
    """The target asked for patience: retried on the schedule, but not before `retry_after` seconds."""

    failure_class = FailureClass.RATE_LIMITED

    def __init__(self, message: str = "rate limited", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


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
    """The target says that the thing is not there: dead letter."""

    failure_class = FailureClass.NOT_FOUND
