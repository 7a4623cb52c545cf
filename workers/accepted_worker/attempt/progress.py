"""Progress on its way to the ledger: many calls become few writes, and no handler ever waits for one.

What an attempt said last is kept here until the attempt is over, and goes along with its outcome: the value before
the end is never lost, whatever became of the writes before it.
"""

import asyncio

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.references import Lease
from accepted.errors import LedgerUnavailable
from accepted.storage.attempts import recorded
from accepted.storage.db.engine import transaction

PAUSE = 0.25
"""Seconds between two writes, each for all the attempts of this worker: a watcher sees four steps a second."""

log = structlog.get_logger(__name__)


class ProgressWriter:
    """The progress of all attempts of one worker. For use on its event loop alone."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._last: dict[Lease, str] = {}
        self._unwritten: set[Lease] = set()
        self._writing: asyncio.Task[None] | None = None

    def say(self, lease: Lease, value: str) -> None:
        """`value` (JSON text) is how far this attempt is now. Written soon, if nothing newer comes first."""
        if self._last.get(lease) == value:
            return
        self._last[lease] = value
        self._unwritten.add(lease)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    def end(self, lease: Lease) -> str | None:
        """The attempt is over: what it said last, to be recorded with its outcome; None if it never spoke."""
        self._unwritten.discard(lease)
        return self._last.pop(lease, None)

    async def _write(self) -> None:
        try:
            while self._unwritten:
                await self._write_once()
                await asyncio.sleep(PAUSE)
        finally:
            self._writing = None

    async def _write_once(self) -> None:
        said = {lease: self._last[lease] for lease in self._unwritten}
        self._unwritten.clear()
        try:
            async with transaction(self._engine) as conn:
                await recorded.write_progress(conn, said)
                await conn.commit()
        except LedgerUnavailable as error:
            log.info("progress_waits", attempts=len(said), error=str(error))
            self._unwritten |= said.keys() & self._last.keys()
