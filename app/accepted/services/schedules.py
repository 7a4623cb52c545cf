"""Schedules: what a tenant does with one (write, delete, trigger), and how those that are due are fired."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.broker.base import Broker
from accepted.containment import RowErrors
from accepted.domain import json_text
from accepted.domain.cron import CronError, CronLine
from accepted.domain.ids import new_id
from accepted.domain.job import Job, NewJob
from accepted.domain.monitoring.audit import Action
from accepted.domain.schedule import (
    MISSED,
    OVERLAP,
    UNIQUE,
    Outcome,
    Overlap,
    Schedule,
    cron_line,
    plan,
    smeared,
)
from accepted.domain.zones import UnknownZone
from accepted.errors import Conflict, FieldError, InvalidRequest, Refused, ResourceNotFound
from accepted.services.jobs import placement
from accepted.services.jobs.checks import JobChecks
from accepted.services.monitoring import audit
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import schedules as ledger
from accepted.storage.db.engine import reading, transaction
from accepted.storage.jobs.reading import jobs_by_id
from accepted.storage.schedules import Key, NewScheduleRun

MAX_FIRED = 100
"""Schedules fired in one transaction."""

MAX_RUNS = 1000
"""Runs after which a transaction fires no further schedule: one that catches up may have as many by itself."""


UNUSABLE = "the schedule cannot be used: write it again; the log of the scheduler says what is wrong"
"""The reason of a run that failed for another cause than its line or its job."""

RECORDED = ("cron", "timezone", "on_missed", "overlap", "spread_over", "enabled")
"""The fields of a schedule that the audit shows."""

_ERRORS = RowErrors("cron")


class _Firing(msgspec.Struct, frozen=True):
    """What firing one schedule writes."""

    runs: list[NewScheduleRun]
    jobs: list[NewJob]
    next_at: datetime | None


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
        await _record_put(conn, before, wanted)
        await conn.commit()
    return written


async def delete(engine: AsyncEngine, tenant: str, name: str) -> None:
    """The schedule does not fire any more once this returns. Raises `ResourceNotFound`."""
    async with transaction(engine) as conn:
        deleted = await ledger.delete(conn, tenant, name)
        if deleted:
            await audit.record(conn, Action.SCHEDULE_DELETED, tenant, name)
        await conn.commit()
    if not deleted:
        raise ResourceNotFound("no such schedule")


async def find(engine: AsyncEngine, tenant: str, name: str) -> Schedule:
    """Raises `ResourceNotFound`."""
    async with reading(engine) as conn:
        found = await ledger.get(conn, tenant, name)
    if found is None:
        raise ResourceNotFound("no such schedule")
    return found


async def job_of(engine: AsyncEngine, checks: JobChecks, tenant: str, name: str) -> NewJob:
    """The job that `trigger` submits. Raises `ResourceNotFound`, `InvalidRequest` or `TooLarge`."""
    schedule = await find(engine, tenant, name)
    return await check_job(checks, tenant, json_text.parse(schedule.job.encode()))


async def trigger(engine: AsyncEngine, broker: Broker, name: str, job: NewJob) -> Job:
    """Submit the `job_of` the schedule now, whatever its line and its `overlap` say.

    Limits are the caller's concern. Raises `ResourceNotFound`, or `Conflict` while another job has its unique key.
    """
    async with transaction(engine) as conn:
        if not await ledger.trigger(conn, job.tenant, name, job.id):
            raise ResourceNotFound("the schedule has been deleted meanwhile")
        new, duplicates = await placement.take_unique_keys(conn, [job])
        if duplicates:
            raise Conflict("another job has its unique key")
        await placement.insert(conn, broker, new)
        accepted = await jobs_by_id(conn, [job.id])
        await audit.record(conn, Action.SCHEDULE_TRIGGERED, job.tenant, name, job_id=job.id)
        await conn.commit()
    return accepted[job.id]


async def fire(engine: AsyncEngine, broker: Broker, checks: JobChecks, measurements: Measurements) -> int:
    """Fire up to `MAX_FIRED` schedules that are due. Returns how many.

    The rows of their runs, the jobs and the next times commit together, or not at all. A time that has a row already
    was fired before, and makes no second job.
    """
    runs: list[NewScheduleRun] = []
    jobs: dict[object, NewJob] = {}
    next_times: dict[Key, datetime | None] = {}
    async with transaction(engine) as conn:
        due, now = await ledger.lock_due(conn, MAX_FIRED)
        if now is None:
            return 0
        busy = await ledger.busy(conn, [_key(one) for one in due if one.overlap == Overlap.SKIP])
        for one in due:
            if len(runs) >= MAX_RUNS:
                break
            firing = await _firing(one, now, _key(one) in busy, checks)
            runs += firing.runs
            jobs |= {job.id: job for job in firing.jobs}
            next_times[_key(one)] = firing.next_at
        recorded = await ledger.record_runs(conn, runs)
        wanted = [jobs[run.job_id] for run in recorded if run.job_id is not None]
        new, duplicates = await placement.take_unique_keys(conn, wanted)
        await ledger.leave_out_runs(conn, [run for run in recorded if run.job_id in duplicates], UNIQUE)
        await placement.insert(conn, broker, new)
        await ledger.move(conn, next_times)
        await conn.commit()
    measurements.accepted(new)
    return len(next_times)


async def mend(engine: AsyncEngine) -> int:
    """Compute next times again after the ledger's clock has gone back. Returns how many changed.

    Times that were fired before do not fire again: their runs have rows.
    """
    async with transaction(engine) as conn:
        ahead, now = await ledger.lock_ahead(conn)
        if now is None:
            return 0
        first = {_key(one): _first(one, now) for one in ahead}
        moved = {_key(one): first[_key(one)] for one in ahead if first[_key(one)] != one.next_at}
        await ledger.move(conn, moved)
        await conn.commit()
    return len(moved)


async def _record_put(conn: AsyncConnection, before: Schedule | None, wanted: Schedule) -> None:
    """Record the fields as they were (null: it is new) and as they are. Of the job, which has a payload, whether it is
    another."""

    def of(one: Schedule) -> dict[str, object]:
        return {name: getattr(one, name) for name in RECORDED}

    was = None if before is None else of(before)
    changed = before is None or before.job != wanted.job
    await audit.record(
        conn, Action.SCHEDULE_PUT, wanted.tenant, wanted.name, before=was, after=of(wanted), job_changed=changed
    )


async def _firing(one: Schedule, now: datetime, busy: bool, checks: JobChecks) -> _Firing:
    """A schedule that cannot be used stops no other: the run says why it failed, and the schedule rests."""
    assert one.next_at is not None
    with _ERRORS.contained(f"{one.tenant}/{one.name}"):
        return await _planned(one, one.next_at, now, busy, checks)
    return _Firing([_run(one, one.next_at, Outcome.FAILED, UNUSABLE)], [], None)


async def _planned(one: Schedule, next_at: datetime, now: datetime, busy: bool, checks: JobChecks) -> _Firing:
    try:
        planned = plan(one.line, next_at, one.on_missed, now)
    except ValueError as error:
        return _Firing([_run(one, next_at, Outcome.FAILED, f"the line {error}")], [], None)
    skipped = [_run(one, moment, Outcome.SKIPPED, MISSED) for moment in planned.skip]
    run = planned.run
    if one.overlap == Overlap.SKIP:
        run = [] if busy else planned.run[:1]
        skipped += [_run(one, moment, Outcome.SKIPPED, OVERLAP) for moment in planned.run[len(run) :]]
    runs, jobs = await _runs(one, run, checks)
    return _Firing([*skipped, *runs], jobs, planned.next_at)


async def _runs(
    one: Schedule, moments: Sequence[datetime], checks: JobChecks
) -> tuple[list[NewScheduleRun], list[NewJob]]:
    if not moments:
        return [], []
    try:
        checked = await check_job(checks, one.tenant, json_text.parse(one.job.encode()))
    except Refused as refused:
        return [_run(one, moment, Outcome.FAILED, str(refused)) for moment in moments], []
    jobs = [
        msgspec.structs.replace(checked, id=new_id(), run_at=smeared(one.tenant, one.name, moment, one.spread_over))
        for moment in moments
    ]
    return [_fired(one, moment, job) for moment, job in zip(moments, jobs, strict=True)], jobs


def _fired(one: Schedule, moment: datetime, job: NewJob) -> NewScheduleRun:
    return NewScheduleRun(one.tenant, one.name, moment, Outcome.FIRED, job_id=job.id)


def _run(one: Schedule, moment: datetime, outcome: Outcome, reason: str) -> NewScheduleRun:
    return NewScheduleRun(one.tenant, one.name, moment, outcome, reason)


def _next_at(before: Schedule | None, wanted: Schedule, now: datetime) -> datetime | None:
    """The first time after now; but a rewrite that leaves line and zone as they are keeps a time that is due."""
    if not wanted.enabled:
        return None
    if before and before.enabled and (before.cron, before.timezone) == (wanted.cron, wanted.timezone):
        return before.next_at
    return next(wanted.line.runs(now), None)


def _first(one: Schedule, now: datetime) -> datetime | None:
    """A line that this release cannot read keeps its time: firing it records why it failed."""
    try:
        return next(one.line.runs(now), one.next_at)
    except (ValueError, OverflowError):
        return one.next_at


def _key(one: Schedule) -> Key:
    return one.tenant, one.name
