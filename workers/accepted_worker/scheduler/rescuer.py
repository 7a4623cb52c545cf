"""The rescuer: attempts whose worker has fallen silent are ended as crashed, and their jobs go to others."""

import random
import time

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain import transitions
from accepted.services.jobs.completion import MAX_BATCH, settle
from accepted.storage import workers
from accepted.storage.db.engine import reading

log = structlog.get_logger(__name__)


class Rescuer:
    """Judges silence only after it has itself seen the ledger up for as long as a heartbeat takes to come.

    When the ledger was away, no worker could write its heartbeat; rescuing at once on its return would run every
    job in progress a second time.
    """

    name = "rescuer"

    def __init__(self, engine: AsyncEngine, broker: Broker, lease_ttl: float) -> None:
        self._engine = engine
        self._broker = broker
        self._lease_ttl = lease_ttl
        self._round = lease_ttl / 10
        self._seen_since: float | None = None
        self._last_seen = 0.0

    async def run_once(self) -> int:
        try:
            async with reading(self._engine) as conn:
                abandoned = await workers.abandoned(conn, self._lease_ttl, MAX_BATCH)
        except BaseException:
            self._seen_since = None
            raise
        if not self._trustworthy() or not abandoned:
            return 0
        done = await settle(
            self._engine, self._broker, [transitions.crashed(running, random.random()) for running in abandoned]
        )
        for running, rescued in zip(abandoned, done, strict=True):
            if rescued:
                log.warning(
                    "job_rescued", job_id=str(running.job_id), attempt=running.attempt, worker=str(running.worker_id)
                )
        return sum(done)

    def pause(self, done: int) -> float:
        return 0.0 if done == MAX_BATCH else self._round

    def _trustworthy(self) -> bool:
        now = time.monotonic()
        if self._seen_since is None or now - self._last_seen > 3 * self._round:
            self._seen_since = now
        self._last_seen = now
        return now - self._seen_since >= self._lease_ttl / 3
