"""The errors of the service, as one tree.

AcceptedError
├── Refused                     a request is not carried out
│   ├── MalformedRequest        400  not JSON, not UTF-8, a broken header
│   │   └── MalformedLines           some lines of a body are not readable; carries a list of FieldError
│   ├── InvalidRequest          422  well-formed, but a field is wrong; carries a list of FieldError
│   ├── UnsupportedMedia        415
│   ├── TooLarge                413
│   ├── Unauthenticated         401
│   ├── Forbidden               403
│   ├── CrossSite               403  a web page of another origin has sent it
│   ├── ResourceNotFound        404
│   ├── Gone                    410
│   ├── QuotaExceeded           429  the tenant has used up its quota; carries the state of the quota
│   ├── QueueFull               429  as many jobs of the tenant wait on the queue as `max_depth` allows
│   ├── UploadsFull             429  the tenant's uploads take too much of the disk that all share
│   ├── NoRoom                  503  the disk for uploads is full
│   ├── Conflict                409  its state does not allow the operation
│   │   └── NeedFailed               a job that it needs has ended without success; carries which one
│   ├── Misdirected             421  Host names a server that this is not
│   ├── PreconditionFailed      412  If-Match does not hold
│   └── KeyReused               422  an idempotency key was sent with another body before
├── LedgerUnavailable           503  PostgreSQL is away, slow or full; nothing is left half-done
├── BrokerUnavailable           503  the broker is away; submissions are accepted without it
├── WorkerExhausted             a worker must be replaced: too many of its handlers have not stopped
└── ConfigurationError          a process must not start with this configuration

The numbers are the HTTP status codes of `app/accepted/api/http/problem_table.py`, the only module that sets them.
"""

import difflib
import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from accepted.domain.tenants import TenantQuota

LONGEST_NAME = 64
"""Characters. No name of ours is longer, and comparing names takes quadratic time."""

MAX_COMPARED = 200
"""Names that one name is compared with. A comparison takes up to 40 µs."""

MAX_KNOWN = 5000
"""Names of which those are chosen."""

MAX_HINTS = 5
"""Hints in one answer."""

MAX_MESSAGE = 500
"""Characters of an error's text in a line of a log."""

_SECRETS = (
    (re.compile(r"(?<=://)[^\s/@]*:[^\s/]*@"), "***@"),  # of a URL
    (re.compile(r"\b(acc_|whsec_)[\w+/=-]{6,}"), r"\1***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), r"\1 ***"),
    (
        re.compile(
            r"(?i)(\w*(?:passw(?:or)?d|secret|token|api[_-]?key|authorization)\w*[\"']?\s*[=:]\s*)(?:[\"'][^\"']*[\"']?|\S+)"
        ),
        r"\1***",
    ),
)
"""What looks like a secret in a text that others have written, and what stands in its place."""


class AcceptedError(Exception):
    """The base of all errors that this service raises on purpose."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field. `pointer` is an RFC 6901 JSON pointer into the body; `detail` never repeats a value."""

    pointer: str
    detail: str


class Refused(AcceptedError):
    """The request is not carried out. `detail` is shown to the client and holds no payload."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail


class MalformedRequest(Refused):
    """Not readable: broken JSON, broken UTF-8, a malformed header."""


class MalformedLines(MalformedRequest):
    """Some lines of an NDJSON body are not readable."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("; ".join(e.detail for e in errors[:3]))
        self.errors = errors


class InvalidRequest(Refused):
    """Readable, but a field is wrong."""

    def __init__(self, errors: list[FieldError], detail: str = "") -> None:
        super().__init__(detail or "; ".join(f"{e.pointer or '/'}: {e.detail}" for e in errors[:3]))
        self.errors = errors


class UnsupportedMedia(Refused):
    """The body is not plain UTF-8 `application/json`."""


class TooLarge(Refused):
    """The body, or one payload in it, is over its limit."""


class Unauthenticated(Refused):
    """No API key, or one that is unknown or revoked."""


class Forbidden(Refused):
    """The API key lacks the scope that the operation needs."""


class CrossSite(Refused):
    """A web page of another origin has sent it, to a service without authentication."""


class Misdirected(Refused):
    """Host names a server that this is not: with authentication off, a name that anybody's DNS may hold."""


class ResourceNotFound(Refused):
    """Unknown, or another tenant's: the client cannot tell which."""


class Gone(Refused):
    """It existed, and is past its retention."""


class QuotaExceeded(Refused):
    """More jobs than the tenant's quota has left; `retry_after` is in seconds."""

    def __init__(self, detail: str, quota: TenantQuota, wanted: int) -> None:
        super().__init__(detail)
        self.retry_after = max(quota.wait_for(wanted), 1.0)
        self.quota = quota


class QueueFull(Refused):
    """As many jobs of the tenant wait on the queue as its `max_depth` allows."""


class UploadsFull(Refused):
    """The tenant's uploads that are under way take too much of the disk that all tenants share."""


class NoRoom(Refused):
    """The disk for uploads is full, or cannot be written."""


class Conflict(Refused):
    """It exists, but its state does not allow the operation."""


class PreconditionFailed(Refused):
    """What the request names in If-Match is not so (RFC 9110 section 13.1.1)."""


class NeedFailed(Conflict):
    """A job cannot run again, because the job `needs` has ended without success.

    `ref` is that job's name in its workflow, if it has one; `status` is None if it no longer exists.
    """

    def __init__(self, needs: UUID, ref: str | None, status: str | None) -> None:
        super().__init__()
        self.needs = needs
        self.ref = ref
        self.status = status


class KeyReused(Refused):
    """An idempotency key that was used with another body before."""


class LedgerUnavailable(AcceptedError):
    """PostgreSQL did not answer in time, refused, or went away. The transaction is not known to have committed."""


class BrokerUnavailable(AcceptedError):
    """The broker is away or did not confirm in time. Unpublished references stay in the outbox."""


class WorkerExhausted(AcceptedError):
    """Too many orphaned handlers: the worker process exits, to be replaced by a new one."""


class ConfigurationError(AcceptedError):
    """A setting, a handler module or a schema version with which a process must not start."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint to append to an error about `name`: the closest name in `known`, or "" when none is close."""
    found = nearest(name.lower(), known)
    return f'; did you mean "{found}"?' if found else ""


class Hints:
    """Hints in one answer: at most `MAX_HINTS`, because each costs milliseconds."""

    def __init__(self) -> None:
        self._left = MAX_HINTS

    def about(self, name: str, known: Iterable[str]) -> str:
        """As `did_you_mean`; "" too when there are enough hints."""
        if not self._left:
            return ""
        self._left -= 1
        return did_you_mean(name, known)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The closest name in `known`; None when none is close.

    Of many names only those that begin alike, or are about as long, are compared.
    """
    if len(name) > LONGEST_NAME:
        return None
    names = list(islice(known, MAX_KNOWN))
    if len(names) > MAX_COMPARED:
        start = name[:3].lower()
        names = heapq.nsmallest(
            MAX_COMPARED, names, key=lambda one: (one[:3].lower() != start, abs(len(one) - len(name)))
        )
    found = difflib.get_close_matches(name, names, n=1)
    return found[0] if found else None


def describe(error: BaseException) -> str:
    """The class of `error` and its text, in one line and without secrets."""
    try:
        text = readable(str(error))
    except Exception:  # its `__str__` can raise anything
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def escaped(text: str) -> str:
    """`text` with an escape such as \\ud800 for each lone surrogate, which UTF-8 cannot carry."""
    return text.encode(errors="backslashreplace").decode()


def readable(text: str, limit: int = MAX_MESSAGE) -> str:
    """The first line of `text`, at most `limit` characters, with *** for what looks like a secret.

    PostgreSQL, SQLAlchemy and Pydantic quote values in the lines that follow.
    """
    line = text[: 4 * limit].strip().partition("\n")[0].strip()
    for pattern, instead in _SECRETS:
        line = pattern.sub(instead, line)
    return line[:limit]
