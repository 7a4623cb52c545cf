"""The errors of the service, drawn as one tree.

AcceptedError
├── Refused                     the caller asked for something we will not do; carries a problem slug
│   ├── MalformedRequest        400  not JSON, not UTF-8, a broken header
│   │   └── MalformedLines           some lines of a body are not; carries a list of FieldError
│   ├── InvalidRequest          422  well-formed, but a field is wrong; carries a list of FieldError
│   ├── UnsupportedMedia        415
│   ├── TooLarge                413
│   ├── Unauthenticated         401
│   ├── Forbidden               403
│   ├── ResourceNotFound        404
│   ├── Gone                    410
│   ├── QuotaExceeded           429  the tenant may not submit so much now; carries how its quota stands
│   ├── QueueFull               429  the queue holds as many waiting jobs as it may
│   ├── Conflict                409  its state does not allow that
│   └── KeyReused               422  an idempotency key came with another body
├── LedgerUnavailable           503  PostgreSQL is away, slow or full; nothing is half-done
├── BrokerUnavailable           503  the broker is away; only requests about the broker itself get it
├── WorkerExhausted             a worker has to be replaced: handlers of its have not let go
└── ConfigurationError          a process must not start like this

HTTP status codes live in `app/accepted/api/http/problem_table.py` and nowhere else; the numbers above are its reading
of this tree.
"""

from dataclasses import dataclass

from accepted.domain.tenants import TenantQuota


class AcceptedError(Exception):
    """The root of everything this service raises on purpose."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that is wrong. `pointer` is an RFC 6901 JSON pointer into the body; no value is ever echoed."""

    pointer: str
    detail: str


class Refused(AcceptedError):
    """The request will not be carried out; `detail` is for people and holds no payload."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail


class MalformedRequest(Refused):
    """Not readable at all: broken JSON, broken UTF-8, a header outside its grammar."""


class MalformedLines(MalformedRequest):
    """A body by lines, of which some are not readable."""

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
    """No API key, or one that we do not know or no longer honour."""


class Forbidden(Refused):
    """The API key lacks the scope that the operation needs."""


class ResourceNotFound(Refused):
    """Unknown, or another tenant's: the answer is the same."""


class Gone(Refused):
    """It was here once, and is past its retention."""


class QuotaExceeded(Refused):
    """More than the tenant's quota has left; `retry_after` in seconds."""

    def __init__(self, detail: str, standing: TenantQuota, wanted: int) -> None:
        super().__init__(detail)
        self.retry_after = max(standing.wait_for(wanted), 1.0)
        self.standing = standing


class QueueFull(Refused):
    """As many jobs wait on the queue as its `max_depth` lets."""


class Conflict(Refused):
    """The thing is there, and not in a state in which this can be done to it."""


class KeyReused(Refused):
    """An idempotency key that was used before with another body."""


class LedgerUnavailable(AcceptedError):
    """PostgreSQL did not answer in time, refused, or went away; the transaction did not commit as far as we know."""


class BrokerUnavailable(AcceptedError):
    """The broker did not confirm in time or is away; what was to be published stays in the outbox."""


class WorkerExhausted(AcceptedError):
    """So many handlers outlived their attempts that this worker process has to be replaced by a fresh one."""


class ConfigurationError(AcceptedError):
    """A setting, a handler module or a schema version with which a process must not start."""
