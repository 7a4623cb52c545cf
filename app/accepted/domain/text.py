"""Text that others wrote: what can be stored of it, and which known name it means."""

import difflib
from collections.abc import Iterable

_LONGEST_NAME = 64
"""Characters. No name of ours is longer, and the comparison takes quadratic time."""


def storable(text: str, limit: int) -> str:
    """The first `limit` characters of `text`; NUL and lone surrogates, which PostgreSQL refuses, are replaced."""
    return text[:limit].encode(errors="replace").decode().replace("\0", "�")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint to append to an error about `name`: the closest name in `known`, or "" when none is close."""
    if len(name) > _LONGEST_NAME:
        return ""
    found = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f'; did you mean "{found[0]}"?' if found else ""
