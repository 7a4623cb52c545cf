"""The pruner: finished jobs, batches and runs of schedules past their retention, and old keys, are forgotten."""

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.storage.db.engine import transaction
from accepted.storage.jobs import idempotency, pruning

EVERY = 30.0
MOST = 1000
"""Rows a statement, so that no lock is held for long."""


class Pruner:
    """Deletes in batches, each its own transaction."""

    name = "pruner"

    def __init__(self, engine: AsyncEngine, retention: float, retention_failed: float) -> None:
        self._engine = engine
        self._retention = retention
        self._retention_failed = retention_failed

    async def run_once(self) -> int:
        async with transaction(self._engine) as conn:
            jobs = await pruning.prune_jobs(conn, self._retention, self._retention_failed, datetime.now(UTC), MOST)
            await conn.commit()
        async with transaction(self._engine) as conn:
            keys = await idempotency.prune(conn, MOST)
            await pruning.prune_rest(conn)
            await conn.commit()
        async with transaction(self._engine) as conn:
            runs = await pruning.prune_runs(conn, self._retention, MOST)
            batches = await pruning.prune_batches(conn, self._retention, MOST)
            await conn.commit()
        return jobs + keys + runs + batches

    def pause(self, done: int) -> float:
        return 1.0 if done >= MOST else EVERY
