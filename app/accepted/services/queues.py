"""Queues as they are shown: limits, backlog, rates and slots."""

from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.job import FINISHED, Status
from accepted.domain.monitoring.audit import Action
from accepted.domain.rates import Measured, size
from accepted.services.monitoring import audit
from accepted.storage import queue_load, queues
from accepted.storage.counts import backlogs
from accepted.storage.counts.backlogs import Backlog
from accepted.storage.db.engine import reading, transaction
from accepted.storage.queues import QueueSettings, QueueUses

UNFINISHED = tuple(status for status in Status if status not in FINISHED)

log = structlog.get_logger(__name__)


async def describe_all(engine: AsyncEngine, tenant: str | None, lease_ttl: float) -> list[dict[str, Any]]:
    """Every queue, by name. Depths count the jobs of `tenant`, or of all tenants if None; the rest is the queue's."""
    async with reading(engine) as conn:
        return await described(conn, tenant, lease_ttl)


async def described(conn: AsyncConnection, tenant: str | None, lease_ttl: float) -> list[dict[str, Any]]:
    """The same on a connection."""
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
        if uses is not None and uses.none:
            await audit.record(conn, Action.QUEUE_DELETED, tenant, name)
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
