"""How long a failed job waits (contract sections 4 and 5): wait k is schedule[k] * (1 + U(0, jitter))."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

DEFAULT_SCHEDULE = (30.0, 300.0, 1800.0, 7200.0)
"""Seconds. With the first run at once, five attempts take about two and a half hours."""

MAX_RETRY_AFTER = 24 * 3600.0
"""Seconds. A target can delay a job by a day at most (contract section 5)."""

LONGEST_WAIT = 366 * 86400.0
"""Seconds. No wait and no timeout is longer."""

MAX_ATTEMPTS = 10_000

_MAX_DATE_CHARS = 64
"""Characters. The longest of the three forms of an HTTP date has 33."""


class Retry(msgspec.Struct, frozen=True):
    """A retry policy. `schedule` is in seconds and its last entry repeats; `jitter` is a share of the wait."""

    max_attempts: int = 5
    schedule: Sequence[float] = DEFAULT_SCHEDULE
    jitter: float = 0.2

    def __post_init__(self) -> None:
        """Raises `ValueError` for a policy with which no wait can be computed, where it is written."""
        msgspec.structs.force_setattr(self, "schedule", tuple(self.schedule))  # JSON gives a list
        if not _is_number(self.max_attempts, 1, MAX_ATTEMPTS) or self.max_attempts != int(self.max_attempts):
            raise ValueError(f"Retry: max_attempts must be a whole number from 1 to {MAX_ATTEMPTS}")
        if not all(_is_number(wait, 0, LONGEST_WAIT) for wait in self.schedule):
            raise ValueError(f"Retry: each wait of the schedule must be a number of seconds from 0 to {LONGEST_WAIT:g}")
        if not _is_number(self.jitter, 0, 1):
            raise ValueError("Retry: jitter must be a number from 0 to 1")

    def wait(self, failures: int, chance: float, retry_after: float | None = None) -> float:
        """Seconds to wait after the `failures`-th failure of a budget (from 1); `chance` is uniform in [0, 1).

        `retry_after` is a minimum. Jitter only adds to it, so that jobs do not return early, nor all at once.
        """
        base = self.schedule[min(failures, len(self.schedule)) - 1] if self.schedule else 0.0
        floor = min(retry_after or 0.0, MAX_RETRY_AFTER)
        return max(base, floor) * (1 + chance * self.jitter)


def read_policy(text: str, default: Retry) -> Retry:
    """A stored policy. One that cannot be read is replaced by `default`: its attempt has to end all the same."""
    try:
        return msgspec.json.decode(text, type=Retry)
    except (msgspec.DecodeError, ValueError):
        return default


def is_duration(seconds: object) -> bool:
    """Whether this is a number of seconds, above 0 and at most `LONGEST_WAIT`."""
    return _is_number(seconds, 0, LONGEST_WAIT) and seconds != 0


def _is_number(value: object, least: float, most: float) -> bool:
    """NaN is not between any two numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


WEBHOOK_RETRY = Retry(
    max_attempts=10,
    schedule=(5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0),
    jitter=0.1,
)
"""The Standard Webhooks schedule: about 75 hours in all."""


def parse_retry_after(value: str, now: float) -> float | None:
    """The Retry-After header field (RFC 9110, 10.2.3): seconds from `now` (Unix time), 0 to 24 h.

    None if `value` is neither a number nor an HTTP date.
    """
    value = value.strip(" \t")
    if re.fullmatch(r"[0-9]+", value):
        return min(float(value), MAX_RETRY_AFTER)
    when = _http_date(value)
    if when is None:
        return None
    return min(max(when.timestamp() - now, 0.0), MAX_RETRY_AFTER)


def _http_date(value: str) -> datetime | None:
    # The mail parser accepts more than the three forms. All three begin with a weekday, so others are refused here.
    if len(value) > _MAX_DATE_CHARS or not re.match(r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)", value):
        return None
    from email.utils import parsedate_to_datetime  # here: a third of the cost of `from accepted import job`

    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when
