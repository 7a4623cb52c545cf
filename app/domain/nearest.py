"""Which known name somebody may have meant."""

import difflib
from collections.abc import Iterable

_LONGEST = 64  # no name of ours is longer, and the comparison is quadratic in the length


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name in `known` closest to `name`, or None when none is close."""
    if len(name) > _LONGEST:
        return None
    found = difflib.get_close_matches(name.lower(), list(known), n=1)
    return found[0] if found else None
