"""What a tenant does with his schedules: write, trigger, and ask beforehand what a line means."""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain import json_text
from accepted.domain.cron import CronError, CronLine
from accepted.domain.job import Job, NewJob
from accepted.domain.schedule import Schedule, UnknownZone, cron_line
from accepted.errors import Conflict, FieldError, InvalidRequest, ResourceNotFound
from accepted.services.jobs import placement
from accepted.services.jobs.checks import JobChecks
from accepted.storage import schedules as ledger
from accepted.storage.db.engine import reading, transaction
from accepted.storage.jobs.reading import jobs_by_id


def check_line(cron: str, timezone: str) -> CronLine:
    """Raises `InvalidRequest`, also for a line that never fires."""
    try:
        return cron_line(cron, timezone)
    except UnknownZone as error:
        raise InvalidRequest([FieldError("/timezone", str(error))]) from None
    except CronError as error:
        raise InvalidRequest([FieldError("/cron", str(error))]) from None


async def check_job(checks: JobChecks, tenant: str, body: Any) -> NewJob:
    """The job of a schedule, as POST /jobs would accept it now. Raises `InvalidRequest` or `TooLarge`."""
    try:
        return await checks.check(tenant, body, None)
    except InvalidRequest as refused:
        raise InvalidRequest([FieldError(f"/job{one.pointer}", one.detail) for one in refused.errors]) from None


async def put(engine: AsyncEngine, wanted: Schedule) -> tuple[Schedule, bool]:
    """Write a schedule that was checked. Returns it as it is now, and whether it is new."""
    async with transaction(engine) as conn:
        before, now = await ledger.lock(conn, wanted.tenant, wanted.name)
        written = await ledger.put(conn, msgspec.structs.replace(wanted, next_at=_next_at(before, wanted, now)))
        await conn.commit()
    return written


async def delete(engine: AsyncEngine, tenant: str, name: str) -> None:
    """Once this returns it does not fire any more. Raises `ResourceNotFound`."""
    async with transaction(engine) as conn:
        there = await ledger.delete(conn, tenant, name)
        await conn.commit()
    if not there:
        raise ResourceNotFound("no such schedule")


async def find(engine: AsyncEngine, tenant: str, name: str) -> Schedule:
    """Raises `ResourceNotFound`."""
    async with reading(engine) as conn:
        found = await ledger.get(conn, tenant, name)
    if found is None:
        raise ResourceNotFound("no such schedule")
    return found


async def trigger(engine: AsyncEngine, broker: Broker, checks: JobChecks, tenant: str, name: str) -> Job:
    """Submit the schedule's job now, whatever its line and its `overlap` say.

    Raises `ResourceNotFound`, `InvalidRequest`, `TooLarge`, or `Conflict` while another job has its unique key.
    """
    schedule = await find(engine, tenant, name)
    job = await check_job(checks, tenant, json_text.parse(schedule.job.encode()))
    async with transaction(engine) as conn:
        if not await ledger.trigger(conn, tenant, name, job.id):
            raise ResourceNotFound("no such schedule any more")
        new, doubles = await placement.take_unique_keys(conn, [job])
        if doubles:
            raise Conflict("a job with its unique key is there")
        await placement.insert(conn, broker, new)
        accepted = await jobs_by_id(conn, [job.id])
        await conn.commit()
    return accepted[job.id]


def _next_at(before: Schedule | None, wanted: Schedule, now: datetime) -> datetime | None:
    """From now on; but where nothing of when it fires is changed, a time that is due at this moment is not lost."""
    if not wanted.enabled:
        return None
    if before and before.enabled and (before.cron, before.timezone) == (wanted.cron, wanted.timezone):
        return before.next_at
    return next(wanted.line.runs(now), None)
