"""The failure table (contract section 5) for exceptions that do not name their class: those of httpx, of SQLAlchemy
and asyncpg, and Python's own.

Total: every exception is one failure or another. The texts hold no URL, no SQL and no parameter of a statement.
"""

import time

import asyncpg
import httpx
from sqlalchemy.exc import DataError, DBAPIError

from accepted.domain.failures import (
    AuthError,
    HandlerError,
    InvalidJob,
    NotFound,
    RateLimited,
    TargetTimeout,
    TransientError,
)
from accepted.domain.retry import parse_retry_after

NEVER_TO_BE_SENT = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.TooManyRedirects)


def of(error: BaseException) -> HandlerError:
    """What `error` means for its job: itself if it says so, else by the table, else `TransientError`."""
    if isinstance(error, HandlerError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return _of_group(error)
    if isinstance(error, httpx.HTTPStatusError):
        return of_status(error.response.status_code, error.response.headers.get("retry-after"))
    if isinstance(error, NEVER_TO_BE_SENT):
        return InvalidJob(describe(error))
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return TargetTimeout(describe(error))
    if isinstance(error, (DBAPIError, asyncpg.PostgresError)):
        return _of_database(error)
    return TransientError(describe(error))


def of_status(status: int, retry_after: str | None) -> HandlerError:
    """What an answer with this status, which is no success, means; `retry_after` is the header field, if it came."""
    answered = f"the target answered {status}"
    wait = parse_retry_after(retry_after, time.time()) if retry_after is not None and status in (429, 503) else None
    if status == 429 or wait is not None:
        return RateLimited(answered, retry_after=wait)
    if status in (401, 403, 407):
        return AuthError(answered)
    if status == 404:
        return NotFound(answered)
    if 300 <= status <= 399:
        return InvalidJob(f"{answered}, and redirects are not followed")
    if 400 <= status <= 499 and status not in (408, 425):
        return InvalidJob(answered)
    return TransientError(answered)


def describe(error: BaseException) -> str:
    """The kind of exception and what it says."""
    kind, text = type(error).__name__, said(error)
    return f"{kind}: {text}" if text else kind


def said(error: BaseException) -> str:
    """The text of an exception, whatever its `__str__` does."""
    try:
        return str(error)
    except BaseException:
        return ""


def _of_group(group: BaseExceptionGroup) -> HandlerError:
    """A group is worth another try if one of its members is, and then not before the latest that any asks for."""
    members = [of(member) for member in group.exceptions]
    again = [one for one in members if one.worth_another_try]
    return max(again, key=lambda one: one.retry_after or 0.0) if again else members[0]


def _of_database(error: DBAPIError | asyncpg.PostgresError) -> HandlerError:
    """By SQLSTATE: 22 data never fits; 28 and 42501 are credentials and rights; the rest may pass.

    So may 23, integrity: of two that insert the same at once one fails, and finds the other's row the next time.
    """
    origin = (error.orig.__cause__ or error.orig) if isinstance(error, DBAPIError) and error.orig else error
    first_line = describe(origin).partition("\n")[0]  # PostgreSQL's second line, DETAIL, quotes values
    state = getattr(origin, "sqlstate", None) or ""
    if state[:2] == "22" or isinstance(error, DataError):
        return InvalidJob(first_line)
    if state[:2] == "28" or state == "42501":
        return AuthError(first_line)
    return TransientError(first_line)
