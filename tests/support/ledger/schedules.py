"""Schedules on the real ledger: what is due is set there, never waited for."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.schedule import Schedule
from accepted.services import schedules as service
from accepted.services.job_types.cache import JobTypeCache
from accepted.services.jobs.checks import JobChecks
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import job_types
from accepted.storage.db.engine import transaction
from tests.support.ledger.sql import do, rows
from tests.support.service.in_process_worker import HANDLERS

TENANT = "acme"


async def job_checks(engine: AsyncEngine) -> JobChecks:
    """The checks of a submission, with the built-in types registered."""
    async with transaction(engine) as conn:
        await job_types.register(conn, [handler.type for handler in HANDLERS.values()])
        await conn.commit()
    return JobChecks(JobTypeCache(engine, EgressAllow()), EgressAllow(), 1000)


async def put(engine: AsyncEngine, name: str = "s", job: dict[str, Any] | None = None, **fields: Any) -> Schedule:
    body = msgspec.json.encode(job or {"type": "noop", "tags": ["cron"]}).decode()
    given = {
        "tenant": TENANT, "name": name, "cron": "* * * * *", "timezone": "UTC", "job": body, "on_missed": "skip",
        "overlap": "allow", "spread_over": 0.0, "enabled": True,
    }  # fmt: skip
    written, _ = await service.put(engine, Schedule(**(given | fields)))
    return written


async def back(engine: AsyncEngine, seconds: float, name: str = "s") -> datetime:
    """Let the schedule have been due `seconds` ago, at a whole minute; that minute."""
    set_back = """
        UPDATE schedules SET next_at = date_trunc('minute', now() - CAST(:ago AS float8) * interval '1 second')
        WHERE name = :name
    """
    await do(engine, set_back, ago=seconds, name=name)
    (row,) = await rows(engine, "SELECT next_at FROM schedules WHERE name = :name", name=name)
    return row["next_at"]  # type: ignore[no-any-return]


async def due(engine: AsyncEngine, name: str = "s") -> datetime:
    """Let the schedule be due a moment ago, within the grace."""
    await do(engine, "UPDATE schedules SET next_at = now() - interval '1 second' WHERE name = :name", name=name)
    (row,) = await rows(engine, "SELECT next_at FROM schedules WHERE name = :name", name=name)
    return row["next_at"]  # type: ignore[no-any-return]


async def runs(engine: AsyncEngine, name: str = "s") -> Sequence[Any]:
    return await rows(
        engine,
        "SELECT r.*, j.status, j.run_at, j.tags, j.traceparent, j.tenant AS job_tenant FROM schedule_runs r "
        "LEFT JOIN jobs j ON j.id = r.job_id WHERE r.name = :name ORDER BY scheduled_at",
        name=name,
    )


async def fire(engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks) -> int:
    return await service.fire(engine, broker, checks, Measurements())
