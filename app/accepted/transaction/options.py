"""What a job may be given beside its type and its payload when it is submitted in a transaction."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict

from accepted.client import bodies


class TransactionOptions(TypedDict, total=False):
    """The options of `accepted.submit`; `delay` and `timeout` are in seconds. None is as if it were not given."""

    queue: str | None
    priority: int | None
    run_at: datetime | None
    delay: float | None
    expires_at: datetime | None
    timeout: float | None
    max_attempts: int | None
    tags: Sequence[str] | None
    metadata: Mapping[str, str] | None
    callback_url: str | None
    callback_events: Sequence[str] | None
    concurrency_key: str | None


def as_json(options: Mapping[str, object]) -> str:
    """JSON text. Raises `ValueError` for a time without an offset, which PostgreSQL would take for one of its zone."""
    for name, value in options.items():
        if isinstance(value, datetime) and value.utcoffset() is None:
            raise ValueError(f"{name} must have an offset")
    return bodies.encode(bodies.given(options)).decode()
