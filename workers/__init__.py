"""Running jobs. What a handler module needs is importable from here."""

from app.domain.failures import AuthError, InvalidJob, NotFound, RateLimited, TransientError
from app.domain.retry import Retry
from workers.context import Context
from workers.job import job

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
