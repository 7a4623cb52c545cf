"""What things are called, and where clients find them.

Identifiers are UUIDv7 (RFC 9562), whose first 48 bits are the Unix time in milliseconds. Links are paths, under the
prefix at which clients reach this service. The prefix is a context variable, because every answer and webhook has
links: a process sets it from ACCEPTED_ROOT_PATH, and the API sets it anew for each request.
"""

from contextvars import ContextVar
from datetime import datetime
from uuid import UUID

__all__ = [
    "AFTER_ALL",
    "BEFORE_ALL",
    "MAX_ROOT",
    "OWN_PATHS",
    "ROOT_PATTERN",
    "age_of",
    "as_sent",
    "floor_at",
    "is_own_path",
    "link",
    "new_id",
    "serve_under",
]

BEFORE_ALL = UUID(int=0)
"""Below every id: what goes on behind it begins with the first."""

AFTER_ALL = UUID(int=2**128 - 1)
"""Above every id."""

ROOT_PATTERN = r"(?:/[A-Za-z0-9._~-]+)*"
"""A prefix: empty, or segments of characters that need no encoding, without a slash at the end."""

MAX_ROOT = 200
"""Characters of a prefix."""

OWN_PATHS = frozenset({
    "audit", "batches", "dead-letters", "docs", "healthz", "job-types", "jobs", "keys", "leases", "metrics",
    "openapi.json", "problems", "queues", "readyz", "schedules", "stats", "status", "targets", "ui",
    "webhook-deliveries", "webhook-secret", "workers", "workflows",
})  # fmt: skip
"""How the paths of the service begin. A prefix must not: `/jobs/1` could not be told from what a proxy that removes
the prefix `/jobs` has left of `/jobs/jobs/1`."""

_root: ContextVar[str] = ContextVar("root", default="")


def serve_under(root: str) -> None:
    """Links have this prefix from now on, in this task and those that it starts."""
    _root.set(root)


def is_own_path(root: str) -> bool:
    """Whether a prefix begins as paths of the service do."""
    return root.lstrip("/").partition("/")[0] in OWN_PATHS


def link(path: str) -> str:
    """The path at which clients find what this service has at `path`."""
    return _root.get() + path


def as_sent(path: str) -> str:
    """The path for which the client asked: with the prefix, which a proxy may have removed."""
    root = _root.get()
    return path if path == root or path.startswith(root + "/") else root + path


def new_id() -> UUID:
    """A new UUIDv7, rising within this process."""
    from uuid_utils.compat import uuid7  # here, because commands that only call the API do without it

    return uuid7()


def age_of(job_id: UUID, now: datetime) -> float | None:
    """Seconds since the id was made; None if it is not a UUIDv7."""
    if job_id.version != 7:
        return None
    return now.timestamp() - (job_id.int >> 80) / 1000


def floor_at(moment: datetime, later: float = 0.0) -> UUID:
    """The smallest UUIDv7 of the moment `later` seconds after `moment`: smaller ids are older.

    Any moment will do: those that no id can have stand for the first or the last one.
    """
    millis = min(max(0, int((moment.timestamp() + later) * 1000)), 2**48 - 1)
    return UUID(int=millis << 80 | 0x7 << 76 | 0b10 << 62)
