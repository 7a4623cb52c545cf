"""A directory in memory, for a server that gets a database for each test: on a disk that costs ten times the CPU.

A killed process loses nothing that it has written, wherever that is: only a machine that loses its power would.
"""

import os
import shutil
import tempfile
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
ENOUGH = 2 * 1024**3
"""Bytes that must be free; a server of ours needs some 300 MB. A container often has 64 MB of shared memory."""


def directory_in_memory(prefix: str) -> Path | None:
    """A new directory, or None where there is too little memory. Those that killed test runs have left are deleted."""
    if not SHARED_MEMORY.is_dir() or _free() < ENOUGH:
        return None
    for left in SHARED_MEMORY.glob(f"{prefix}*-*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=SHARED_MEMORY))


def _free() -> int:
    return min(shutil.disk_usage(SHARED_MEMORY).free, psutil.virtual_memory().available // 2)
