"""The loops that count and report: the sampler, measurements, the counter of letters, rejections and the reporter."""

import asyncio
import time
from collections.abc import Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.containment import RowErrors
from accepted.errors import BrokerUnavailable
from accepted.services import alerts
from accepted.services.monitoring.statistics import REPORT_EVERY as REPORT_MEASUREMENTS_EVERY
from accepted.services.monitoring.statistics import Measurements, depths
from accepted.storage import queue_load, queue_tenants, queues
from accepted.storage.counts import letter_groups
from accepted.storage.db import periodic_locks
from accepted.storage.db.engine import transaction
from accepted.storage.db.statements import Connection
from accepted.storage.monitoring import statistics
from accepted.storage.monitoring.statistics import MINUTE
from accepted.storage.queue_load import QueueSample

SAMPLE_SHARE = 50
"""The samplers of all schedulers may use one part in this many of the time: counting a huge backlog is no load of its
own."""

COUNT_LETTERS_EVERY = 5.0
MOVES_BATCH = 5000
"""Dead letters that are added to their groups in one transaction."""

REJECTIONS_EVERY = 30.0
ALERTS_EVERY = 1.0
REPORT_EVERY = 60.0
"""Seconds between checks whether the daily report is due."""

log = structlog.get_logger(__name__)


class Sampler:
    """Counts every few seconds what waits and runs on each queue. Rates and sizing are computed from the samples.

    A queue that was deleted while a job came is found here, and made again, limited if it was: workers serve only
    queues that exist, and the limiter moves on only the jobs of limited ones. Any number of schedulers may run: the one
    that takes the periodic lock counts.
    """

    name = "sampler"

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._took = 0.0
        self._charted = -1

    async def run_once(self) -> int:
        started = time.monotonic()
        async with transaction(self._engine) as conn:
            sampled: list[QueueSample] = []
            if taken := await periodic_locks.take(conn, self.name, self.pause(0) * 0.9):
                sampled = await queue_load.sample(conn)
                await queue_tenants.announce(conn, [one.pair for one in sampled])
                await queues.limit_again(conn, sorted({one.queue for one in sampled}))
                await self._chart(conn, sampled)
            await conn.commit()
        if taken:
            self._took = time.monotonic() - started
        return len(sampled)

    def pause(self, done: int) -> float:
        return max(queue_load.BIN, self._took * SAMPLE_SHARE)

    async def _chart(self, conn: Connection, sampled: Sequence[QueueSample]) -> None:
        """Add the depths to the statistics; while nothing waits, once a minute."""
        waiting = [one for one in sampled if one.due]
        minute = int(time.monotonic() // MINUTE)
        if waiting or minute != self._charted:
            await statistics.add(conn, depths(waiting))
            self._charted = minute


class MeasurementReports:
    """Adds what the loops of this process have counted to the ledger."""

    name = "measurements"

    def __init__(self, engine: AsyncEngine, measurements: Measurements) -> None:
        self._engine = engine
        self._measurements = measurements

    async def run_once(self) -> int:
        await self._measurements.report(self._engine)
        return 0

    def pause(self, done: int) -> float:
        return REPORT_MEASUREMENTS_EVERY


class LetterCounter:
    """Adds the dead letters that came and went to the counts of their groups."""

    name = "letters"

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def run_once(self) -> int:
        async with transaction(self._engine) as conn:
            added = await letter_groups.add_up(conn, MOVES_BATCH)
            if added:
                await letter_groups.forget_empty(conn, MOVES_BATCH)
            await conn.commit()
        return added

    def pause(self, done: int) -> float:
        return 0.0 if done == MOVES_BATCH else COUNT_LETTERS_EVERY


class Rejections:
    """Logs when `accepted.dead` has more rejected messages than in the round before, and once after a start."""

    name = "rejections"

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._seen = 0

    async def run_once(self) -> int:
        try:
            count = await self._broker.count_rejected()
        except BrokerUnavailable:
            return 0
        more, self._seen = max(count - self._seen, 0), count
        if more:
            log.warning("messages_rejected", more=more, count=count)
        return more

    def pause(self, done: int) -> float:
        return REJECTIONS_EVERY


class Reporter:
    """Sends alerts for new dead letters, and once a day a report of their number.

    Runs only where ACCEPTED_ALERT_URL is set; without it no dead letter is marked as alerted.
    """

    name = "reporter"

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker
        self._next_report = 0.0
        self._errors = RowErrors(self.name)

    async def run_once(self) -> int:
        alerted = 0
        with self._errors.contained("alert"):
            alerted += await alerts.alert(self._engine, self._broker)
        now = asyncio.get_running_loop().time()
        if now >= self._next_report:
            alerted += await alerts.report(self._engine, self._broker)
            self._next_report = now + REPORT_EVERY
        return alerted

    def pause(self, done: int) -> float:
        return ALERTS_EVERY
