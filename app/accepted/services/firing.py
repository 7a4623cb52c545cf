"""Firing schedules: the row of a run, its job and the next time of its schedule commit together, or not at all."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain import json_text
from accepted.domain.ids import new_id
from accepted.domain.job import NewJob
from accepted.domain.schedule import MISSED, OVERLAP, UNIQUE, Outcome, Overlap, Schedule, plan, smeared
from accepted.errors import Refused
from accepted.services.jobs import placement
from accepted.services.jobs.checks import JobChecks
from accepted.services.schedules import check_job
from accepted.storage import schedules
from accepted.storage.db.engine import transaction
from accepted.storage.schedules import Key, NewScheduleRun

MOST = 100
"""Schedules a round."""

MOST_RUNS = 1000
"""Runs after which a round takes no further schedule: one that catches up may have as many by itself."""


class Fires(msgspec.Struct, frozen=True):
    """What one schedule comes to in one round."""

    runs: list[NewScheduleRun]
    jobs: list[NewJob]
    next_at: datetime | None


async def fire(engine: AsyncEngine, broker: Broker, checks: JobChecks) -> int:
    """Fire what is due, up to `MOST` schedules. Returns how many of them were moved on."""
    runs: list[NewScheduleRun] = []
    jobs: dict[object, NewJob] = {}
    moved: dict[Key, datetime | None] = {}
    async with transaction(engine) as conn:
        due, now = await schedules.lock_due(conn, MOST)
        if now is None:
            return 0
        busy = await schedules.busy(conn, [_key(one) for one in due if one.overlap == Overlap.SKIP])
        for one in due:
            if len(runs) >= MOST_RUNS:
                break
            fires = await _fires(one, now, _key(one) in busy, checks)
            runs += fires.runs
            jobs |= {job.id: job for job in fires.jobs}
            moved[_key(one)] = fires.next_at
        recorded = await schedules.record_runs(conn, runs)
        wanted = [jobs[run.job_id] for run in recorded if run.job_id is not None]
        new, doubles = await placement.take_unique_keys(conn, wanted)
        await schedules.leave_out_runs(conn, [run for run in recorded if run.job_id in doubles], UNIQUE)
        await placement.insert(conn, broker, new)
        await schedules.move(conn, moved)
        await conn.commit()
    return len(moved)


async def mend(engine: AsyncEngine) -> int:
    """Find the next time anew for schedules that wait for a time beyond it: the ledger's clock has gone back.

    What was fired by the clock as it was stays fired: the rows of those runs are there.
    """
    async with transaction(engine) as conn:
        ahead, now = await schedules.lock_ahead(conn)
        if now is None:
            return 0
        first = {_key(one): _first(one, now) for one in ahead}
        moved = {_key(one): first[_key(one)] for one in ahead if first[_key(one)] != one.next_at}
        await schedules.move(conn, moved)
        await conn.commit()
    return len(moved)


async def _fires(one: Schedule, now: datetime, busy: bool, checks: JobChecks) -> Fires:
    assert one.next_at is not None
    try:
        planned = plan(one.line, one.next_at, one.on_missed, now)
    except ValueError as error:
        return Fires([_run(one, one.next_at, Outcome.FAILED, f"the line {error}")], [], None)
    skipped = [_run(one, moment, Outcome.SKIPPED, MISSED) for moment in planned.skip]
    run = planned.run
    if one.overlap == Overlap.SKIP:
        run = [] if busy else planned.run[:1]
        skipped += [_run(one, moment, Outcome.SKIPPED, OVERLAP) for moment in planned.run[len(run) :]]
    runs, jobs = await _runs(one, run, checks)
    return Fires([*skipped, *runs], jobs, planned.next_at)


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


def _first(one: Schedule, now: datetime) -> datetime | None:
    """None for a line that this release cannot read any more: it will say so when it is due."""
    try:
        return next(one.line.runs(now), one.next_at)
    except ValueError:
        return one.next_at


def _key(one: Schedule) -> Key:
    return one.tenant, one.name
