"""The Prefer header (RFC 7240): what of it we read, and how forgiving we are.

A preference is a wish, so nothing here is ever an error: what is unknown or malformed is passed over.
"""

import re

MAX_WAIT = 60  # seconds; contract section 4. Longer than that, proxies cut the connection
_LONGEST_LINE = 1000  # characters; unclosed quotes cost the square of the length

# A word between commas or semicolons; a quoted string may hold both.
_PART = re.compile(r'(?:[^,;"]|"(?:[^"\\]|\\.)*"|")+|[,;]')
_WAIT = re.compile(r'wait[ \t]*=[ \t]*(?:([0-9]+)|"([0-9]+)")', re.IGNORECASE)
_NAMES_WAIT = re.compile(r"wait[ \t]*(?:=|\Z)", re.IGNORECASE)


def read_wait(values: list[str]) -> int | None:
    """Seconds (0 to 60) that the client wants to wait for the result; None when it did not validly say so.

    `values` is one string per header line. Of several `wait` only the first counts (RFC 7240 section 2), even
    when it is malformed.
    """
    for preference in _preferences(values):
        if _NAMES_WAIT.match(preference):
            return _seconds(preference)
    return None


def _preferences(values: list[str]) -> list[str]:
    """The preferences in order, each without its `;` parameters."""
    found = []
    for value in values:
        if len(value) > _LONGEST_LINE:
            continue
        is_parameter = False
        for part in _PART.findall(value):
            if part in (",", ";"):
                is_parameter = part == ";"
            elif not is_parameter:
                found.append(part.strip(" \t"))
    return found


def _seconds(preference: str) -> int | None:
    wait = _WAIT.fullmatch(preference)
    if wait is None:
        return None
    digits = (wait[1] or wait[2]).lstrip("0") or "0"
    return MAX_WAIT if len(digits) > len(str(MAX_WAIT)) else min(int(digits), MAX_WAIT)
