"""Which known name somebody may have meant."""

import difflib
from collections.abc import Iterable

_LONGEST = 64  # no name of ours is longer, and the comparison is quadratic in the length


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint to append to what is wrong with `name`: the closest name in `known`, or nothing when none is close."""
    if len(name) > _LONGEST:
        return ""
    found = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f'; did you mean "{found[0]}"?' if found else ""
