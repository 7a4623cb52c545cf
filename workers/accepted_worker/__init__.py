"""Running jobs. What a handler module needs is importable from here."""

from accepted.domain.failures import AuthError, InvalidJob, NotFound, RateLimited, TransientError
from accepted.domain.retry import Retry
from accepted_worker.attempt.context import Context
from accepted_worker.job import job

__all__ = [
    "AuthError",
    "Context",
    "InvalidJob",
    "NotFound",
    "RateLimited",
    "Retry",
    "TransientError",
    "job",
]
