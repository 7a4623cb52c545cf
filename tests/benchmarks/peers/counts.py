"""Reads what `apps/counting.py` and `counting.cjs` count: jobs that ran, and when the first and the last one did."""

import struct
from pathlib import Path
from typing import NamedTuple

_RECORD = struct.Struct("<Qdd")


class Ended(NamedTuple):
    """Jobs that ended, and the Unix times of the first and the last; 0 where none did."""

    jobs: int = 0
    first: float = 0.0
    last: float = 0.0


def read(directory: Path) -> Ended:
    """Of all processes together."""
    records = [_RECORD.unpack(file.read_bytes()) for file in directory.iterdir() if file.stat().st_size]
    found = [one for one in records if one[0]]
    if not found:
        return Ended()
    jobs, firsts, lasts = zip(*found, strict=True)
    return Ended(sum(jobs), min(firsts), max(lasts))
