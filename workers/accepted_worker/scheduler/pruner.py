"""The pruner deletes what is past its retention: batches, finished jobs, runs of schedules, idempotency keys, the
audit, and statistics, whose old minutes it first makes rows of ten minutes."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.containment import RowErrors
from accepted.domain.ids import BEFORE_ALL
from accepted.storage import pruning
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import idempotency
from accepted.storage.monitoring import audit, statistics
from accepted.storage.pruning import Walked
from accepted_worker.scheduler.pruning_pace import PruningPace

EVERY = 30.0
"""Seconds between two rounds."""

IN_VAIN = 0.05
"""The share of its time that may go into rows that stay: failed jobs that are kept for longer, and unfinished ones. If
they take more, the next round is later."""

Prune: TypeAlias = Callable[[AsyncConnection, datetime], Awaitable[Walked]]


class Pruner:
    """Goes through old rows in rounds, each from the oldest to those that are within their retention.

    What something else still needs is kept (`accepted.storage.pruning`). Several pruners skip the rows that one has
    locked. A round that dies is begun again.
    """

    name = "pruner"

    def __init__(self, engine: AsyncEngine, retention: float, retention_failed: float) -> None:
        self._engine = engine
        self._ages = (retention, retention_failed)
        self._retention = retention
        self._errors = RowErrors(self.name)
        self._every: list[Prune] = [
            self._prune_batches,
            self._prune_jobs,
            self._prune_keys,
            self._prune_runs,
            self._prune_audit,
            self._roll_up,
        ]
        self._left: list[Prune] = []
        self._after_batch = self._after_job = BEFORE_ALL
        self._pace = PruningPace()
        self._rest = self._in_vain = 0.0

    async def run_once(self) -> int:
        now, deleted = datetime.now(UTC), 0
        left, self._left = self._left or self._every, []
        await self._pace.look(self._engine)
        started = time.monotonic()
        for prune in left:
            with self._errors.contained(prune.__name__):
                deleted += await self._step(prune, now)
        self._rest = self._pace.rest(time.monotonic() - started, deleted)
        return deleted

    def pause(self, done: int) -> float:
        if self._left:
            return self._rest
        in_vain, self._in_vain = self._in_vain, 0.0
        return max(EVERY, in_vain / IN_VAIN)

    async def _step(self, prune: Prune, now: datetime) -> int:
        started = time.monotonic()
        async with transaction(self._engine) as conn:
            step = await prune(conn, now)
            await conn.commit()
        if step.walked == self._pace.limit:
            self._left.append(prune)
        self._in_vain += (time.monotonic() - started) * (step.walked - step.deleted) / self._pace.limit
        return step.deleted

    async def _prune_batches(self, conn: AsyncConnection, now: datetime) -> Walked:
        step = await pruning.prune_batches(conn, *self._ages, now, self._after_batch, self._pace.limit)
        self._after_batch = step.last or BEFORE_ALL
        return step

    async def _prune_jobs(self, conn: AsyncConnection, now: datetime) -> Walked:
        step = await pruning.prune_jobs(conn, *self._ages, now, self._after_job, self._pace.limit)
        self._after_job = step.last or BEFORE_ALL
        return step

    async def _prune_keys(self, conn: AsyncConnection, now: datetime) -> Walked:
        keys = await idempotency.prune(conn, self._pace.limit)
        return Walked(keys, keys, None)

    async def _prune_runs(self, conn: AsyncConnection, now: datetime) -> Walked:
        runs = await pruning.prune_runs(conn, self._retention, self._pace.limit)
        await pruning.prune_rest(conn)
        return Walked(runs, runs, None)

    async def _roll_up(self, conn: AsyncConnection, now: datetime) -> Walked:
        rows = await statistics.roll_up(conn)
        return Walked(rows, rows, None)

    async def _prune_audit(self, conn: AsyncConnection, now: datetime) -> Walked:
        entries = await audit.prune(conn, now, self._pace.limit)
        return Walked(entries, entries, None)
