"""A journal on disk: a line is written and synced before anything follows from it.

Lines that come while a sync is under way share the next one, as commits do.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """Append-only, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._syncing = asyncio.Lock()
        self._written = self._synced = 0

    async def note(self, what: dict[str, Any]) -> None:
        """Returns once the line would survive the loss of this machine."""
        os.write(self._file, json.dumps(what).encode() + b"\n")
        self._written += 1
        mine = self._written
        async with self._syncing:
            if self._synced < mine:
                target = self._written
                await asyncio.to_thread(os.fdatasync, self._file)
                self._synced = target

    def close(self) -> None:
        os.close(self._file)
