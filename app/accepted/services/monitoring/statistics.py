"""What a process counts for rates and statistics, and the series that are made of it for charts.

Everything is counted in memory and added to the ledger every few seconds, so that no job costs a round trip more. A
process that dies loses the counts of its last seconds, and no job.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import logs
from accepted.concurrency import cancel_requested
from accepted.domain.failures import FailureClass
from accepted.domain.job import Status
from accepted.domain.monitoring.statistics import (
    ALL,
    FAILED,
    OTHERS,
    RUNS,
    WAITS,
    Series,
    Submitted,
    by_series,
    percentile,
    run_column,
    total_of,
    wait_column,
)
from accepted.domain.transitions import Transition
from accepted.errors import FieldError, InvalidRequest, LedgerUnavailable
from accepted.metrics import JOB_WAIT
from accepted.storage import queue_load
from accepted.storage.db.engine import reading, transaction
from accepted.storage.db.statements import Connection, Row, ledger_time
from accepted.storage.monitoring import statistics
from accepted.storage.monitoring.statistics import KEPT, MINUTE, MINUTES_KEPT, TEN_MINUTES
from accepted.storage.queue_load import QueueSample

REPORT_EVERY = 5.0
"""Seconds between reports. What a process has not reported when it dies is lost."""

MOST_POINTS = 1500
"""Points of one answer: a day of minutes, and an hour."""

_MOST_STEPS = MOST_POINTS - 2
"""Both ends of the time lie within a step."""

SHOWN = 3600.0
"""Seconds that are shown without `since`."""

MOST_COUNTED = 1000
"""Series of one report; further ones of a tenant count as one. Clients choose the names of queues."""

_FAILURES = frozenset(FailureClass)

log = structlog.get_logger(__name__)


class Measurements:
    """What one part of this process has counted since its last report."""

    def __init__(self) -> None:
        self._ended: dict[str, tuple[int, float]] = {}
        self._counts: defaultdict[Series, Counter[str]] = defaultdict(Counter)

    def accepted(self, jobs: Iterable[Submitted]) -> None:
        """These jobs have been committed."""
        self.accepted_of(by_series(jobs))

    def accepted_of(self, counts: Mapping[Series, int]) -> None:
        """So many jobs of each series have been committed."""
        for series, jobs in counts.items():
            self._of(series)["accepted"] += jobs

    def started(self, job: Submitted, waited: float | None) -> None:
        """An attempt has begun, for which the job was due so many seconds before; None: the ledger does not know."""
        counts = self._of((job.tenant, job.queue, job.type))
        counts["started"] += 1
        if waited is not None:
            counts[wait_column(waited)] += 1
            JOB_WAIT.observe(waited)

    def ended(self, series: Series, outcome: str, seconds: float, *, dead: bool = False) -> None:
        """An attempt has ended with this outcome, and was not handed back. `dead`: it was the last one, and failed."""
        _, queue, _ = series
        attempts, total = self._ended.get(queue, (0, 0.0))
        self._ended[queue] = attempts + 1, total + seconds
        counts = self._of(series)
        counts[FAILED[FailureClass(outcome)] if outcome in _FAILURES else outcome] += 1
        counts[run_column(seconds)] += 1
        counts["dead_letters"] += dead

    async def crashed(self, conn: Connection, ends: Iterable[Transition]) -> None:
        """These attempts have ended with their worker, nobody knows after how long."""
        by_job = {one.running.job_id: one for one in ends}
        for job_id, series in (await statistics.series_of(conn, list(by_job))).items():
            counts = self._of(series)
            counts[FAILED[FailureClass.CRASHED]] += 1
            counts["dead_letters"] += by_job[job_id].status is Status.FAILED

    async def keep_reporting(self, engine: AsyncEngine) -> None:
        """Report every few seconds until cancelled."""
        while not cancel_requested():
            await asyncio.sleep(REPORT_EVERY)
            try:
                await self.report(engine)
            except LedgerUnavailable as error:
                logs.outage("measurements_not_reported", error)
            except Exception:
                log.exception("measurements_not_reported")

    async def report(self, engine: AsyncEngine) -> None:
        """Add what was counted since the last report to the ledger.

        Raises `LedgerUnavailable`; those counts are lost then.
        """
        if not self._counts:
            return
        async with transaction(engine) as conn:
            await self.write(conn)
            await conn.commit()

    async def write(self, conn: Connection) -> None:
        """The same within a transaction. The caller commits."""
        ended, self._ended = self._ended, {}
        counts, self._counts = self._counts, defaultdict(Counter)
        if ended:
            await queue_load.add_runs(conn, ended)
        if counts:
            await statistics.add(conn, {**_totals(counts), **counts})

    def _of(self, series: Series) -> Counter[str]:
        if series not in self._counts and len(self._counts) >= MOST_COUNTED:
            series = series[0], OTHERS, OTHERS
        return self._counts[series]


def _totals(counts: Mapping[Series, Counter[str]]) -> dict[Series, Counter[str]]:
    """The sums of each tenant, and of all together."""
    totals: defaultdict[Series, Counter[str]] = defaultdict(Counter)
    for (tenant, _, _), of in counts.items():
        totals[ALL].update(of)
        totals[total_of(tenant)].update(of)
    return totals


def depths(waiting: Sequence[QueueSample]) -> dict[Series, dict[str, float]]:
    """The depth of each queue by tenant, of each tenant, and of all together, as `statistics.add` takes them."""
    found = {(one.tenant, one.queue, ""): _depth([one]) for one in waiting}
    for tenant in {one.tenant for one in waiting}:
        found[total_of(tenant)] = _depth([one for one in waiting if one.tenant == tenant])
    return {ALL: _depth(waiting), **found}


def _depth(samples: Sequence[QueueSample]) -> dict[str, float]:
    ages = [one.oldest for one in samples if one.oldest is not None]
    return {"depth": sum(one.due for one in samples), **({"oldest": max(ages)} if ages else {})}


async def charted(
    engine: AsyncEngine,
    tenant: str | None,
    queue: str | None,
    type: str | None,
    since: datetime | None,
    step: int | None,
) -> dict[str, Any]:
    """The body of `GET /stats`: a point for each step from `since` until now. No tenant, queue or type: of all.

    Raises `InvalidRequest` when there would be more than `MOST_POINTS`.
    """
    async with reading(engine) as conn:
        now = await ledger_time(conn)
        begin = min(max(since or now - timedelta(seconds=SHOWN), now - timedelta(seconds=KEPT)), now)
        step = _step((now - begin).total_seconds(), step)
        first = int(begin.timestamp() // step) * step
        moment = datetime.fromtimestamp(first, UTC)
        rows = await statistics.read(conn, tenant=tenant, queue=queue, type=type, since=moment, step=step)
    found = {int(row["at"].timestamp()): row for row in rows}
    points = range(first, int(now.timestamp()) + 1, step)
    return {"step": step, "series": [_point(at, found.get(at), type is not None) for at in points]}


def _step(seconds: float, asked: int | None) -> int:
    """The step in whole rows; without one asked for, the shortest."""
    row = TEN_MINUTES if seconds > MINUTES_KEPT else MINUTE
    step = row * max(-(-(asked or int(seconds / _MOST_STEPS) + 1) // row), 1)
    if seconds / step > _MOST_STEPS:
        least = int(seconds / _MOST_STEPS) + 1
        raise InvalidRequest([FieldError("/step", f"more than {MOST_POINTS} points: at least {least} s are needed")])
    return step


def _point(at: int, row: Row | None, of_type: bool) -> dict[str, Any]:
    """Nothing counted is 0, and null where nobody looked, or nothing was measured. The types of waiting jobs are not
    counted."""
    found: Mapping[str, Any] = row or {}
    looked = found.get("looked", False) and not of_type
    waits, runs = ([found.get(name, 0) for name in names] for names in (WAITS, RUNS))
    return {
        "at": datetime.fromtimestamp(at, UTC),
        **{name: found.get(name, 0) for name in ("accepted", "started", "succeeded")},
        "failed": {kind: found[name] for kind, name in FAILED.items() if found.get(name)},
        "wait_p50": percentile(waits, 0.5),
        "wait_p99": percentile(waits, 0.99),
        "run_p50": percentile(runs, 0.5),
        "run_p99": percentile(runs, 0.99),
        "depth": (found["depth"] or 0) if looked else None,
        "oldest": found["oldest"] if looked else None,
    }
