"""Memory: how much a process has, and the garbage collector, set for a process that serves: what is loaded at start
stays, and is not looked at again.

A full collection walks every object there is. The frameworks alone are some 300,000, none of them garbage, and each
request makes enough objects for the default thresholds to call for one many times a second.
"""

import gc
import os
from pathlib import Path

YOUNG = 50_000
"""Objects made, less those freed, before the young are looked at; Python's own is 700."""


def settle() -> None:
    """Call it once everything is imported and wired."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 50)


def resident_bytes(pid: int) -> int:
    """The memory that a process holds now, as the kernel counts it; 0 where it does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
