"""The loops that end attempts and jobs whose time is up.

- The rescuer ends the attempts of workers that send no heartbeat any more.
- Overdue ends attempts leased over HTTP that run past their timeout. A worker process times its attempts itself; an
  HTTP worker may not, and could renew its lease for ever.
- Expiry ends waiting jobs that did not start by their `expires_at`.
"""

import itertools
import random
import time

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.transitions import Transition
from accepted.services.jobs.completion import MAX_BATCH, expire, settle
from accepted.services.leases import note
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import leases, workers
from accepted.storage.db.engine import reading
from accepted.storage.db.statements import Direct
from accepted.storage.jobs import outbox
from accepted.storage.leases import LeasedAttempt

OVERDUE_EVERY = 1.0
"""Seconds. An attempt ends at most this much after its timeout; if cancelled, after its time to stop."""

EXPIRY_EVERY = 1.0
"""Seconds between polls for late jobs."""

log = structlog.get_logger(__name__)


class Rescuer:
    """Ends attempts of silent workers as `crashed`; their jobs are retried or fail.

    It judges a worker only after it has itself reached the ledger for as long as a heartbeat takes to come. While the
    ledger was away, no worker could send a heartbeat: rescuing at once on its return would run every running job twice.
    """

    name = "rescuer"

    def __init__(self, engine: AsyncEngine, broker: Broker, lease_ttl: float, measurements: Measurements) -> None:
        self._engine = engine
        self._measurements = measurements
        self._broker = broker
        self._lease_ttl = lease_ttl
        self._every = lease_ttl / 10
        self._reached_since: float | None = None
        self._last_reached = 0.0

    async def run_once(self) -> int:
        try:
            async with reading(self._engine) as conn:
                abandoned = await workers.abandoned(conn, self._lease_ttl, MAX_BATCH)
        except BaseException:
            self._reached_since = None
            raise
        if not self._reached_long_enough() or not abandoned:
            return 0
        crashes = [transitions.crashed(running, random.random()) for running in abandoned]
        done = await settle(self._engine, self._broker, crashes)
        for running, rescued in zip(abandoned, done, strict=True):
            if rescued:
                log.warning(
                    "job_rescued", job_id=str(running.job_id), attempt=running.attempt, worker=str(running.worker_id)
                )
        async with reading(self._engine) as conn:
            await self._measurements.crashed(conn, itertools.compress(crashes, done))
        return sum(done)

    def pause(self, done: int) -> float:
        return 0.0 if done == MAX_BATCH else self._every

    def _reached_long_enough(self) -> bool:
        now = time.monotonic()
        if self._reached_since is None or now - self._last_reached > 3 * self._every:
            self._reached_since = now
        self._last_reached = now
        return now - self._reached_since >= self._lease_ttl / 3


class Overdue:
    """Ends overdue attempts as `timeout`, and deletes the worker rows of leases that the rescuer has ended."""

    name = "overdue"

    def __init__(self, engine: AsyncEngine, broker: Broker, polls: Direct, measurements: Measurements) -> None:
        self._engine = engine
        self._measurements = measurements
        self._polls = polls
        self._broker = broker

    async def run_once(self) -> int:
        async with self._polls.statements() as conn:
            await leases.retire_idle(conn)
            found = await leases.overdue(conn, MAX_BATCH)
        ends = [_end(one) for one in found]
        done = await settle(self._engine, self._broker, ends) if ends else []
        for one, transition, counted in zip(found, ends, done, strict=True):
            if counted:
                note(one, transition, self._measurements)
        return sum(done)

    def pause(self, done: int) -> float:
        return 0.0 if done == MAX_BATCH else OVERDUE_EVERY


class Expiry:
    """Ends late jobs as `expired`, with their webhooks. Skips rows that others have locked."""

    name = "expiry"

    def __init__(self, engine: AsyncEngine, broker: Broker, polls: Direct) -> None:
        self._engine = engine
        self._polls = polls
        self._broker = broker

    async def run_once(self) -> int:
        async with self._polls.statements() as conn:
            late = await outbox.any_late(conn)
        return await expire(self._engine, self._broker, MAX_BATCH) if late else 0

    def pause(self, done: int) -> float:
        return 0.0 if done == MAX_BATCH else EXPIRY_EVERY


def _end(found: LeasedAttempt) -> Transition:
    if found.cancelled:
        return transitions.cancelled(found.running)
    message = f"ran longer than {found.timeout:g} s"
    return transitions.failed(found.running, FailureClass.TIMEOUT, message, random.random())
