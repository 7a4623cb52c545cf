"""Cron: submits the jobs of schedules that are due, once for each scheduled time, in however many schedulers."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.services import schedules as service
from accepted.services.jobs.checks import JobChecks
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import schedules
from accepted.storage.db.statements import Direct

LONGEST_PAUSE = 0.5
"""Seconds. A schedule that was just written fires no later than this after its time."""

LOCKED_PAUSE = 0.05
"""Seconds until the next poll while a due schedule is locked: most likely another scheduler is firing it."""

MEND_EVERY = 60.0
"""Seconds between checks whether the ledger's clock has gone back."""


class Cron:
    """Locks the schedules that it fires, and skips those that others have locked."""

    name = "cron"

    def __init__(
        self, engine: AsyncEngine, broker: Broker, checks: JobChecks, polls: Direct, measurements: Measurements
    ) -> None:
        self._engine = engine
        self._polls = polls
        self._broker = broker
        self._checks = checks
        self._measurements = measurements
        self._next_due: float | None = None
        self._next_mend = 0.0

    async def run_once(self) -> int:
        now = asyncio.get_running_loop().time()
        if now >= self._next_mend:
            await service.mend(self._engine)
            self._next_mend = now + MEND_EVERY
        async with self._polls.statements() as conn:
            self._next_due = await schedules.next_due(conn)
        if self._next_due is None or self._next_due > 0:
            return 0
        return await service.fire(self._engine, self._broker, self._checks, self._measurements)

    def pause(self, done: int) -> float:
        if done:
            return 0.0
        if self._next_due is None:
            return LONGEST_PAUSE
        return LOCKED_PAUSE if self._next_due <= 0 else min(self._next_due, LONGEST_PAUSE)
