"""How pages write times, numbers and JSON. Relative times have the exact one beside them, in UTC."""

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

import msgspec

MOST_JSON = 256 * 1024
"""Characters of JSON that a page shows: a whole payload, unless it is mostly structure."""

_TOLD = re.compile(r"`(?P<code>[^`]+)`|(?P<time>[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-9:]{8}(?:\.[0-9]+)?Z)")

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


def clock(value: str | datetime, now: datetime | None = None) -> str:
    """A time within a sentence: `14:05:09 UTC`, and with its day if that is not today."""
    at = moment(value).astimezone(UTC)
    return at.strftime("%H:%M:%S UTC" if at.date() == (now or datetime.now(UTC)).date() else "%Y-%m-%d %H:%M UTC")


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


def marked(pattern: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    """Pieces of `text`, each with the name of the group of `pattern` that it is; empty for what is between."""
    found, at = [], 0
    for mark in pattern.finditer(text):
        found.append(("", text[at : mark.start()]))
        found.append((str(mark.lastgroup), mark[str(mark.lastgroup)]))
        at = mark.end()
    return [*found, ("", text[at:])]


def told(sentence: str) -> list[tuple[str, str]]:
    """Pieces of a sentence of the API: `code` between backticks, and `time`. It may quote an error with any text."""
    return [("" if kind == "time" and not _is_time(part) else kind, part) for kind, part in marked(_TOLD, sentence)]


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


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
