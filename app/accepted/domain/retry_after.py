"""How long a target asks us to wait: the Retry-After header field (RFC 9110, 10.2.3)."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Contract section 5. A target may slow a job down, it may not park it for good.
MAX_RETRY_AFTER = 86_400.0

# The longest of the three forms of an HTTP date has 33 characters.
_MAX_DATE_CHARS = 64


def parse_retry_after(value: str, now: float) -> float | None:
    """Seconds to wait from `now` (Unix time), 0 to 24 h; None if `value` is no number and no HTTP date."""
    value = value.strip(" \t")
    if re.fullmatch(r"[0-9]+", value):
        return min(float(value), MAX_RETRY_AFTER)
    when = _http_date(value)
    if when is None:
        return None
    return min(max(when.timestamp() - now, 0.0), MAX_RETRY_AFTER)


def _http_date(value: str) -> datetime | None:
    # The mail parser takes all three forms and much that is none: an HTTP date begins with its weekday.
    if len(value) > _MAX_DATE_CHARS or not re.match(r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)", value):
        return None
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when
