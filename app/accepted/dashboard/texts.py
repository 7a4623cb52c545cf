"""How pages write times, numbers and JSON. Relative times have the exact one beside them, in UTC."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import msgspec

MOST_JSON = 256 * 1024
"""Characters of JSON that a page shows: a whole payload, unless it is mostly structure."""

_UNITS = (("s", 1.0, 100.0), ("min", 60.0, 6000.0), ("h", 3600.0, 172800.0), ("d", 86400.0, math.inf))


def moment(value: str | datetime) -> datetime:
    """A time of the API's answers."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def exact(value: str | datetime) -> str:
    return moment(value).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def relative(value: str | datetime, now: datetime | None = None) -> str:
    """As `3 min ago` or `in 2 h`. `static/dashboard.js` says the same as time passes."""
    seconds = ((now or datetime.now(UTC)) - moment(value)).total_seconds()
    if abs(seconds) < 1:
        return "now"
    unit, length, _ = next(one for one in _UNITS if abs(seconds) < one[2])
    text = f"{abs(seconds) / length:.0f} {unit}"
    return f"{text} ago" if seconds > 0 else f"in {text}"


def lasting(seconds: float | None) -> str:
    """A length of time in one unit: `20 ms`, `1.4 s`, `12 min`."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    unit, length, _ = next(one for one in _UNITS if seconds < one[2])
    return f"{seconds / length:.1f} {unit}" if seconds < 10 else f"{seconds / length:.0f} {unit}"


def number(value: float | None) -> str:
    """With thin spaces between thousands."""
    if value is None:
        return "–"
    if value != int(value):
        return f"{value:.2f}" if value < 10 else f"{value:,.1f}".replace(",", "\u202f")
    return f"{int(value):,}".replace(",", "\u202f")


def as_json(value: Any) -> str:
    """JSON for people to read."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def editable(stored: bytes, most: int) -> str:
    """JSON text for people to change: indented, unless that makes more than `most` bytes of it."""
    indented = msgspec.json.format(stored, indent=2)
    return (indented if len(indented) <= most else stored).decode()


def pretty(stored: bytes) -> str:
    """JSON text for people to read, cut at `MOST_JSON`. Its numbers and strings are as they are stored."""
    text = msgspec.json.format(stored, indent=2).decode()
    return text if len(text) <= MOST_JSON else text[:MOST_JSON] + "\n… cut here: the API has all of it"
