"""The memory of a process: how much it has, and a garbage collector that is tuned for serving."""

import gc
import os
from pathlib import Path

YOUNG = 50_000
"""New objects before a collection of the young generation. With Python's default of 700, the objects of each request
cause many collections a second."""


def tune_garbage_collector() -> None:
    """Leave what is loaded now out of every collection. Call it once everything is imported and wired.

    The frameworks alone make some 300,000 objects, none of them garbage, and a full collection walks them all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 50)


def resident_bytes(pid: int) -> int:
    """The resident memory of a process, as Linux counts it; 0 where that is not known."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
