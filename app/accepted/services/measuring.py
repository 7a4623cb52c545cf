"""What a process that runs jobs tells of them: how many attempts ended on each queue, and how long they ran."""

import asyncio

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.concurrency import cancel_requested
from accepted.errors import LedgerUnavailable
from accepted.storage import queue_load
from accepted.storage.db.engine import transaction

REPORT_EVERY = 5.0
"""Seconds between reports. What a dying process has not reported is not counted: this is for estimates."""

log = structlog.get_logger(__name__)


class Runs:
    """Counted in memory, so that an attempt costs the ledger nothing more."""

    def __init__(self) -> None:
        self._ended: dict[str, tuple[int, float]] = {}

    def count(self, queue: str, seconds: float) -> None:
        """One attempt on `queue` has ended after `seconds`."""
        runs, total = self._ended.get(queue, (0, 0.0))
        self._ended[queue] = runs + 1, total + seconds

    async def keep_reporting(self, engine: AsyncEngine) -> None:
        """Report every few seconds, until cancelled."""
        while not cancel_requested():
            await asyncio.sleep(REPORT_EVERY)
            try:
                await self.report(engine)
            except LedgerUnavailable as error:
                log.warning("runs_unreported", error=str(error))
            except Exception:
                log.exception("runs_unreported")

    async def report(self, engine: AsyncEngine) -> None:
        """Add what was counted since the last report to the ledger. Raises `LedgerUnavailable`, with that forgotten."""
        if not self._ended:
            return
        ended, self._ended = self._ended, {}
        async with transaction(engine) as conn:
            await queue_load.add_runs(conn, ended)
            await conn.commit()
