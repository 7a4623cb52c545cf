"""Queues as they are shown: their limits, what waits, what was measured, and how many slots they need."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.domain.job import FINISHED, Status
from accepted.domain.rates import Measured, size
from accepted.storage import queue_load, queues
from accepted.storage.db.engine import reading
from accepted.storage.queue_load import Backlog
from accepted.storage.queues import QueueSettings

WAITING = tuple(status for status in Status if status not in FINISHED)


async def describe_all(engine: AsyncEngine, tenant: str | None, lease_ttl: float) -> list[dict[str, Any]]:
    """Every queue, by name. Depths are of this tenant's jobs, or of all; the rest is the queue's."""
    async with reading(engine) as conn:
        return await _described(conn, await queues.every(conn), None, tenant, lease_ttl)


async def describe(engine: AsyncEngine, name: str, tenant: str | None, lease_ttl: float) -> dict[str, Any] | None:
    """The same of one; None when nobody has named it."""
    async with reading(engine) as conn:
        settings = await queues.settings_of(conn, name)
        if settings is None:
            return None
        return (await _described(conn, [settings], name, tenant, lease_ttl))[0]


async def sizing(engine: AsyncEngine, name: str, drain_within: float, lease_ttl: float) -> dict[str, Any] | None:
    """How many slots the queue needs; None when nobody has named it."""
    async with reading(engine) as conn:
        if await queues.settings_of(conn, name) is None:
            return None
        measured = (await queue_load.measured(conn, [name]))[name]
        backlog = await queue_load.due(conn, name)
        slots = await queue_load.slots(conn, lease_ttl)
    found = size(measured, backlog, drain_within)
    return {
        "queue": name,
        "arrival_rate": measured.rate_in,
        "mean_run_time": measured.mean_run_time,
        "measured_over": measured.span,
        "backlog": backlog,
        "drain_within": drain_within,
        "slots": slots.of(name),
        **msgspec.structs.asdict(found),
    }


async def _described(
    conn: AsyncConnection, settings: Sequence[QueueSettings], queue: str | None, tenant: str | None, lease_ttl: float
) -> list[dict[str, Any]]:
    found = await queue_load.backlogs(conn, queue, tenant)
    measured = await queue_load.measured(conn, [one.name for one in settings])
    slots = await queue_load.slots(conn, lease_ttl)
    return [
        _shown(one, found.get(one.name, Backlog()), measured[one.name], slots.of(one.name), tenant) for one in settings
    ]


def _shown(
    settings: QueueSettings, backlog: Backlog, measured: Measured, slots: int, tenant: str | None
) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(settings),
        "depth": {status: backlog.counts.get(status, 0) for status in WAITING},
        "depth_of": "all" if tenant is None else "tenant",
        "oldest_waiting_age": None if backlog.oldest is None else max(backlog.oldest, 0.0),
        "rate_in": measured.rate_in,
        "rate_out": measured.rate_out,
        "mean_run_time": measured.mean_run_time,
        "measured_over": measured.span,
        "slots": slots,
    }
