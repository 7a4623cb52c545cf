"""What the fields of a form mean in a body of the API."""

import re

import msgspec

_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,9})?")


def typed(text: str) -> int | float | str | None:
    """None for an empty field, and a number if it is one; else the text, which the API refuses if it needs a number."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return text or None
    return float(text) if "." in text else int(text)


def minutes(text: str) -> int | float | str:
    """The same for a field in minutes, as the seconds of the API."""
    value = typed(text)
    return value * 60 if isinstance(value, int | float) else value or 0


def raw(text: str) -> msgspec.Raw:
    """JSON that somebody has typed, as it is: the API reads it, and says what is wrong with it."""
    return msgspec.Raw(text.strip().encode() or b"{}")
