"""Queues as they are shown (limits, backlog, rates, slots), and the run times that processes report to the ledger."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted import logs
from accepted.broker.base import Broker
from accepted.concurrency import cancel_requested
from accepted.domain.job import FINISHED, Status
from accepted.domain.rates import Measured, size
from accepted.errors import LedgerUnavailable
from accepted.storage import queue_load, queues
from accepted.storage.counts import backlogs
from accepted.storage.counts.backlogs import Backlog
from accepted.storage.db.engine import reading, transaction
from accepted.storage.queues import QueueSettings, QueueUses

REPORT_EVERY = 5.0
"""Seconds between reports of run times. What a process has not reported when it dies is lost: these are estimates."""

UNFINISHED = tuple(status for status in Status if status not in FINISHED)

log = structlog.get_logger(__name__)


async def describe_all(engine: AsyncEngine, tenant: str | None, lease_ttl: float) -> list[dict[str, Any]]:
    """Every queue, by name. Depths count the jobs of `tenant`, or of all tenants if None; the rest is the queue's."""
    async with reading(engine) as conn:
        return await _described(conn, await queues.every(conn), None, tenant, lease_ttl)


async def describe(engine: AsyncEngine, name: str, tenant: str | None, lease_ttl: float) -> dict[str, Any] | None:
    """The same for one queue; None when the ledger does not know it."""
    async with reading(engine) as conn:
        settings = await queues.settings_of(conn, name)
        if settings is None:
            return None
        return (await _described(conn, [settings], name, tenant, lease_ttl))[0]


async def delete(engine: AsyncEngine, broker: Broker, name: str, tenant: str, lease_ttl: float) -> QueueUses | None:
    """Delete a queue that is not in use, with its limits, also on the broker. Returns its uses; None: not found.

    `tenant` asks: other tenants' own types do not keep it.
    What remains on a broker that is away, or holds stale references, does no harm: a new queue of the name uses it.
    """
    async with transaction(engine) as conn:
        uses = await queues.delete(conn, name, tenant, lease_ttl)
        await conn.commit()
    if uses is not None and uses.none and not await broker.remove(name):
        log.info("queue_left_on_broker", queue=name)
    return uses


async def sizing(engine: AsyncEngine, name: str, drain_within: float, lease_ttl: float) -> dict[str, Any] | None:
    """How many slots the queue needs to drain within so many seconds; None when the ledger does not know it."""
    async with reading(engine) as conn:
        if await queues.settings_of(conn, name) is None:
            return None
        measured = (await queue_load.measured(conn, [name]))[name]
        backlog = await backlogs.due(conn, name)
        slots = await queue_load.slots(conn, [name], lease_ttl)
    found = size(measured, backlog, drain_within)
    return {
        "queue": name,
        "arrival_rate": measured.rate_in,
        "mean_run_time": measured.mean_run_time,
        "measured_over": measured.span,
        "backlog": backlog,
        "drain_within": drain_within,
        "slots": slots[name],
        **msgspec.structs.asdict(found),
    }


class RunTimes:
    """How many attempts of this process ended on each queue, and how long they ran.

    Counted in memory, so that an attempt costs the ledger nothing more.
    """

    def __init__(self) -> None:
        self._ended: dict[str, tuple[int, float]] = {}

    def count(self, queue: str, seconds: float) -> None:
        """An attempt on `queue` has ended after `seconds`."""
        attempts, total = self._ended.get(queue, (0, 0.0))
        self._ended[queue] = attempts + 1, total + seconds

    async def keep_reporting(self, engine: AsyncEngine) -> None:
        """Report every few seconds until cancelled."""
        while not cancel_requested():
            await asyncio.sleep(REPORT_EVERY)
            try:
                await self.report(engine)
            except LedgerUnavailable as error:
                logs.outage("run_times_not_reported", error)
            except Exception:
                log.exception("run_times_not_reported")

    async def report(self, engine: AsyncEngine) -> None:
        """Add what was counted since the last report to the ledger.

        Raises `LedgerUnavailable`; those counts are lost then.
        """
        if not self._ended:
            return
        ended, self._ended = self._ended, {}
        async with transaction(engine) as conn:
            await queue_load.add_runs(conn, ended)
            await conn.commit()


async def _described(
    conn: AsyncConnection, settings: Sequence[QueueSettings], queue: str | None, tenant: str | None, lease_ttl: float
) -> list[dict[str, Any]]:
    found, counted_at = await backlogs.backlogs(conn, queue, tenant)
    measured = await queue_load.measured(conn, [one.name for one in settings])
    slots = await queue_load.slots(conn, [one.name for one in settings], lease_ttl)
    depth_of = "all" if tenant is None else "tenant"
    return [
        _shown(one, found.get(one.name, Backlog()), measured[one.name], slots[one.name])
        | {"depth_of": depth_of, "depth_at": counted_at}
        for one in settings
    ]


def _shown(settings: QueueSettings, backlog: Backlog, measured: Measured, slots: int) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(settings),
        "depth": {status: backlog.counts.get(status, 0) for status in UNFINISHED},
        "oldest_waiting_age": None if backlog.oldest is None else max(backlog.oldest, 0.0),
        "rate_in": measured.rate_in,
        "rate_out": measured.rate_out,
        "mean_run_time": measured.mean_run_time,
        "measured_over": measured.span,
        "slots": slots,
    }
