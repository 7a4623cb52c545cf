"""Cron: schedules whose time has come submit their job, once for each time, in however many schedulers."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.services import schedules as service
from accepted.services.jobs.checks import JobChecks
from accepted.storage import schedules
from accepted.storage.db.statements import Direct

LONGEST_PAUSE = 0.5
"""Seconds. A schedule that was written without our knowing fires no later than this."""

HELD = 0.05
"""Seconds to leave alone what is due and held by somebody else: most likely it is being fired."""

MEND_EVERY = 60.0
"""Seconds between checks whether the ledger's clock has gone back."""


class Cron:
    """Locks what it fires and passes over what others hold."""

    name = "cron"

    def __init__(self, engine: AsyncEngine, broker: Broker, checks: JobChecks, polls: Direct) -> None:
        self._engine = engine
        self._polls = polls
        self._broker = broker
        self._checks = checks
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
        return await service.fire(self._engine, self._broker, self._checks)

    def pause(self, done: int) -> float:
        if done:
            return 0.0
        if self._next_due is None:
            return LONGEST_PAUSE
        return HELD if self._next_due <= 0 else min(self._next_due, LONGEST_PAUSE)
