"""What an exception of a handler means for its job: a failure class, a message and a traceback.

The failure table is section 5 of the contract. Exceptions that name no class (those of httpx, of SQLAlchemy and
asyncpg, and Python's own) are classified here; every exception is of one class. The messages hold no URL, no SQL and no
parameter of a statement. Tracebacks hold source lines and messages, and no values of variables.
"""

import os
import sysconfig
import time
import traceback
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path
from types import FrameType, TracebackType

import asyncpg
from sqlalchemy.exc import DataError, DBAPIError

import accepted
from accepted.domain.failures import (
    AuthError,
    FailureClass,
    HandlerError,
    InvalidJob,
    NotFound,
    RateLimited,
    TargetTimeout,
    TransientError,
)
from accepted.domain.retry import parse_retry_after
from accepted.errors import LedgerUnavailable

MAX_TRACEBACK_BYTES = 16 * 1024
"""The end of a longer traceback is kept: the last frames and the message say most."""

MAX_FRAMES = 60
"""The innermost frames. To format a recursion of a thousand could take longer than the handler ran."""

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = (str(_PACKAGE), str(Path(accepted.__file__).parent), *map(sysconfig.get_path, ("stdlib", "purelib")), "<")
"""The beginnings of file names that are not the user's code: ours, Python's, the libraries'; and of <frozen …>."""

_OWN_CODE = tuple(str(_PACKAGE / package) + os.sep for package in ("attempt", "process_pool", "runtime"))


class RaisedInChild(HandlerError):
    """An exception that a handler raised in a child process; `traceback` and `where` are texts from there."""

    def __init__(
        self,
        message: str,
        failure_class: FailureClass,
        retry_after: float | None,
        traceback: str | None,
        where: str | None,
    ) -> None:
        super().__init__(message)
        self.failure_class = failure_class
        self.retry_after = retry_after
        self.traceback = traceback
        self.where = where


def of(error: BaseException) -> HandlerError:
    """The failure that `error` stands for: itself, or by the table, or a `TransientError`."""
    if isinstance(error, HandlerError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return _of_group(error)
    if isinstance(error, LedgerUnavailable):  # its text names the ledger's host and user: not for clients
        return TransientError("LedgerUnavailable: the ledger was away")
    if any(kind.__module__.partition(".")[0] == "httpx" for kind in type(error).__mro__):
        return _of_httpx(error)
    if isinstance(error, TimeoutError):
        return TargetTimeout(describe(error))
    if isinstance(error, (DBAPIError, asyncpg.PostgresError)):
        return _of_database(error)
    return TransientError(describe(error))


def of_status(status: int, retry_after: str | None) -> HandlerError:
    """The failure that an HTTP status other than 2xx stands for; `retry_after` is the value of that header field."""
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
    """The exception's class name and message."""
    kind, text = type(error).__name__, text_of(error)
    return f"{kind}: {text}" if text else kind


def text_of(error: BaseException) -> str:
    """The exception's message; "" if its `__str__` raises."""
    try:
        return str(error)
    except BaseException:
        return ""


def traceback_of(error: BaseException) -> str | None:
    """The traceback from the handler's first frame on. None for what we raised, and for what cannot be formatted."""
    if isinstance(error, RaisedInChild):
        return error.traceback
    frames = _without_own_frames(error.__traceback__)
    if frames is None:
        return None
    try:
        lines = traceback.format_exception(type(error), error, frames, limit=-MAX_FRAMES)
    except BaseException:  # the methods of a handler's own exception class can raise anything
        return None
    text = "".join(lines).encode(errors="replace").replace(b"\0", b"?")
    cut = text if len(text) <= MAX_TRACEBACK_BYTES else b"...\n" + text[4 - MAX_TRACEBACK_BYTES :]
    return cut.decode(errors="ignore")


def place_of(error: BaseException) -> str | None:
    """Where `error` comes from, as file:line: the innermost line of the user's own code, or else of the handler.

    None for what we raised, and for a `HandlerError` of a built-in handler, whose message says it all.
    """
    if isinstance(error, RaisedInChild):
        return error.where
    found = _place(traceback.extract_tb(_without_own_frames(error.__traceback__)))
    if found is None or (isinstance(error, HandlerError) and found.filename.startswith(str(_PACKAGE))):
        return None
    return f"{found.filename}:{found.lineno}"


def place_in(innermost: FrameType) -> str:
    """Where a thread is now, as file:line: in the handler that it runs, by the same rule, or else its innermost line.

    Lines are read from no file.
    """
    frames = traceback.StackSummary.extract(traceback.walk_stack(innermost), lookup_lines=False)[::-1]
    to_handler = dropwhile(lambda frame: not frame.filename.startswith(_OWN_CODE), frames)
    found = _place([*dropwhile(lambda frame: frame.filename.startswith(_OWN_CODE), to_handler)]) or frames[-1]
    return f"{found.filename}:{found.lineno}"


def _place(frames: Sequence[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    """The innermost frame of the user's own code, or else the first of all."""
    own = [frame for frame in frames if not frame.filename.startswith(_INSTALLED)]
    return own[-1] if own else next(iter(frames), None)


def _without_own_frames(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OWN_CODE):
        frames = frames.tb_next
    return frames


def _of_group(group: BaseExceptionGroup) -> HandlerError:
    """A group can be retried if one of its members can, and waits as long as the longest `retry_after` among them."""
    members = [of(member) for member in group.exceptions]
    again = [one for one in members if one.worth_another_try]
    return max(again, key=lambda one: one.retry_after or 0.0) if again else members[0]


def _of_httpx(error: BaseException) -> HandlerError:
    """Of the handler that raised it, which has loaded httpx; a worker without such a handler never does."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return of_status(error.response.status_code, error.response.headers.get("retry-after"))
    unsendable = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.TooManyRedirects)
    if isinstance(error, unsendable):
        return InvalidJob(describe(error))
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return TargetTimeout(describe(error))
    return TransientError(describe(error))


def _of_database(error: DBAPIError | asyncpg.PostgresError) -> HandlerError:
    """By SQLSTATE: 22 (data) never succeeds; 28 and 42501 are credentials and permissions; the rest may pass.

    23 (integrity) may pass as well: of two concurrent inserts one fails, and finds the other's row on its next attempt.
    """
    origin = (error.orig.__cause__ or error.orig) if isinstance(error, DBAPIError) and error.orig else error
    first_line = describe(origin).partition("\n")[0]  # PostgreSQL's second line, DETAIL, quotes values
    state = getattr(origin, "sqlstate", None) or ""
    if state[:2] == "22" or isinstance(error, DataError):
        return InvalidJob(first_line)
    if state[:2] == "28" or state == "42501":
        return AuthError(first_line)
    return TransientError(first_line)
