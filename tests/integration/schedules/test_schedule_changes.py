"""Schedules that are edited, deleted or broken while they are due, and clocks that go back."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.ids import BEFORE_ALL, new_id
from accepted.domain.schedule import Schedule, cron_line
from accepted.errors import ResourceNotFound
from accepted.services import schedules as service
from accepted.services.jobs.checks import JobChecks
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import pruning, schedules
from accepted.storage.db.engine import transaction
from accepted_worker.scheduler.cron import LONGEST_PAUSE, Cron
from accepted_worker.scheduler.pruner import Pruner
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.schedules import TENANT, back, due, fire, job_checks, put, runs
from tests.support.ledger.sql import do, rows, waits_for_a_lock
from tests.support.waiting import until


@pytest.fixture
async def checks(engine: AsyncEngine) -> JobChecks:
    return await job_checks(engine)


async def test_a_schedule_that_rests_does_not_fire_and_waking_it_replays_nothing(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    await put(engine, on_missed="run_all")
    await back(engine, 600)
    assert (await put(engine, on_missed="run_all", enabled=False)).next_at is None
    await do(engine, "UPDATE schedules SET next_at = now() - interval '1 second'")
    assert await fire(engine, broker, checks) == 0
    again = await put(engine, on_missed="run_all", enabled=True)
    (clock,) = await rows(engine, "SELECT now() AS now")
    assert again.next_at is not None
    assert again.next_at > clock["now"]
    assert await fire(engine, broker, checks) == 0
    assert await runs(engine) == []


async def test_writing_it_again_loses_no_time_that_is_due(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    before = await put(engine)
    moment = await due(engine)
    again = await put(engine, job={"type": "noop", "tags": ["new"]})
    assert (again.next_at, again.created_at) == (moment, before.created_at)
    await fire(engine, broker, checks)
    (run,) = await runs(engine)
    assert (run["scheduled_at"], run["tags"]) == (moment, ["new"])


@pytest.mark.parametrize("change", [{"cron": "0 0 1 1 *"}, {"timezone": "Asia/Tokyo", "cron": "0 0 1 1 *"}])
async def test_another_line_begins_now(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks, change: dict[str, str]
) -> None:
    await put(engine, on_missed="run_all")
    await back(engine, 600)
    written = await put(engine, on_missed="run_all", **change)
    (clock,) = await rows(engine, "SELECT now() AS now")
    assert written.next_at == cron_line(written.cron, written.timezone).next_runs(clock["now"], 1)[0]
    assert await fire(engine, broker, checks) == 0


async def test_a_deleted_schedule_never_fires(engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks) -> None:
    await put(engine)
    await due(engine)
    await service.delete(engine, TENANT, "s")
    assert await fire(engine, broker, checks) == 0
    assert await rows(engine, "SELECT 1 FROM jobs") == []
    with pytest.raises(ResourceNotFound):
        await service.trigger(engine, broker, "s", await service.job_of(engine, checks, TENANT, "s"))
    with pytest.raises(ResourceNotFound):
        await service.delete(engine, TENANT, "s")


@pytest.mark.parametrize("edit", ["put", "delete"])
async def test_an_edit_waits_for_the_fire_that_is_under_way(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks, edit: str
) -> None:
    """And the fire passes over a schedule that is being edited."""
    await put(engine)
    await due(engine)
    async with transaction(engine) as conn:
        held, _ = await schedules.lock_due(conn, 10)
        editing = asyncio.create_task(put(engine) if edit == "put" else service.delete(engine, TENANT, "s"))
        await until(lambda: waits_for_a_lock(engine), 30, "the edit to wait")
        assert await fire(engine, broker, checks) == 0
        assert held[0].next_at is not None
        later = held[0].next_at + timedelta(days=1)
        await schedules.move(conn, {(TENANT, "s"): later})
        await conn.commit()
    written = await editing
    if isinstance(written, Schedule):
        assert written.next_at == later, "the edit has seen what the fire did"
    else:
        assert await rows(engine, "SELECT 1 FROM schedules") == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("DELETE FROM job_types WHERE name = 'noop'", "/job/type: no worker has registered this type"),
        (
            'UPDATE job_types SET payload_schema = \'{"type": "object", "required": ["n"]}\' WHERE name = \'noop\'',
            "/job/payload/n: is required",
        ),
    ],
)
async def test_a_job_that_would_not_be_accepted_any_more_fails_and_the_schedule_goes_on(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks, change: str, reason: str
) -> None:
    await put(engine)
    await put(engine, "healthy", job={"type": "sleep", "payload": {"seconds": 0}})
    await do(engine, change)
    for _ in range(2):
        await due(engine)
        await due(engine, "healthy")
        assert await fire(engine, broker, checks) == 2
    found = await runs(engine)
    assert [(run["outcome"], run["job_id"]) for run in found] == [("failed", None)] * 2
    assert all(run["reason"].startswith(reason) for run in found)
    assert [run["outcome"] for run in await runs(engine, "healthy")] == ["fired", "fired"]


async def test_a_line_that_cannot_be_read_any_more_fails_once_and_holds_nobody_up(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    await put(engine)
    await put(engine, "healthy")
    await do(engine, "UPDATE schedules SET timezone = 'Mars/Base' WHERE name = 's'")
    await due(engine)
    await due(engine, "healthy")
    assert await fire(engine, broker, checks) == 2
    assert await fire(engine, broker, checks) == 0
    (run,) = await runs(engine)
    assert (run["outcome"], run["reason"]) == ("failed", "the line is not an IANA time zone")
    assert [one["outcome"] for one in await runs(engine, "healthy")] == ["fired"]


async def test_a_clock_that_went_back_neither_doubles_nor_hangs(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    """Seen from now, the clock was a year ahead when the last time was fired, or the schedule written."""
    for name in ("fired", "written", "untouched"):
        await put(engine, name, cron="0 0 * * *" if name == "untouched" else "* * * * *")
    await due(engine, "fired")
    await fire(engine, broker, checks)
    await do(engine, "UPDATE schedule_runs SET fired_at = fired_at + interval '1 year'")
    await do(engine, "UPDATE schedules SET next_at = next_at + interval '1 year' WHERE name <> 'untouched'")
    await do(engine, "UPDATE schedules SET updated_at = updated_at + interval '1 year' WHERE name = 'written'")

    assert await service.mend(engine) == 2
    assert await service.mend(engine) == 0

    (clock,) = await rows(engine, "SELECT now() AS now")
    next_minute = cron_line("* * * * *", "UTC").next_runs(clock["now"], 1)[0]
    found = await rows(engine, "SELECT name, next_at FROM schedules WHERE name <> 'untouched'")
    assert {row["next_at"] for row in found} <= {next_minute, next_minute - timedelta(minutes=1)}


async def test_what_a_clock_that_was_ahead_left_out_is_fired_in_its_time(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    early = """
        INSERT INTO schedule_runs (tenant, name, scheduled_at, outcome, fired_at, job_id)
        VALUES ('acme', :name, :moment, :name, now() + interval '1 hour', :job)
    """
    for name in ("skipped", "failed", "fired"):
        await put(engine, name)
        job = new_id() if name == "fired" else None
        await do(engine, early, name=name, moment=await due(engine, name), job=job)
    await fire(engine, broker, checks)
    found = {name: (await runs(engine, name))[0] for name in ("skipped", "failed", "fired")}
    assert {name: (run["outcome"], run["status"]) for name, run in found.items()} == {
        "skipped": ("fired", "queued"),
        "failed": ("fired", "queued"),
        "fired": ("fired", None),
    }
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 2


async def test_the_loop_waits_for_what_is_due_next(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    loop = Cron(engine, broker, checks, PollConnection(engine), Measurements())
    assert await loop.run_once() == 0
    assert loop.pause(0) == LONGEST_PAUSE
    await put(engine)
    await do(engine, "UPDATE schedules SET next_at = now() + interval '100 ms'")
    assert await loop.run_once() == 0
    assert 0 < loop.pause(0) <= 0.1
    await due(engine)
    async with transaction(engine) as conn:
        await schedules.lock_due(conn, 10)
        assert await loop.run_once() == 0
        assert loop.pause(0) == 0.05, "somebody else is firing it"
    assert await loop.run_once() == 1
    assert loop.pause(1) == 0
    await loop._polls.close()


async def test_old_runs_are_forgotten_but_not_those_at_work(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    """Nor those of a failed job: while it is kept, it can be retried, and must not run beside the next one.

    Nor those of the last day, however short the retention: a time whose run is forgotten could fire again.
    """
    for name in ("done", "at-work", "young", "failed"):
        await put(engine, name)
        await due(engine, name)
    await fire(engine, broker, checks)
    finished = "UPDATE jobs SET status = :s, finished_at = now() WHERE id = :id"
    for name, status in (("done", "succeeded"), ("young", "succeeded"), ("failed", "failed")):
        await do(engine, finished, s=status, id=(await runs(engine, name))[0]["job_id"])
    aged = "UPDATE schedule_runs SET scheduled_at = scheduled_at - :hours * interval '1 hour' WHERE name = :name"
    for name, hours in (("done", 25), ("at-work", 25), ("young", 23), ("failed", 25)):
        await do(engine, aged, hours=hours, name=name)
    async with transaction(engine) as conn:
        assert (
            await pruning.prune_jobs(conn, 0, 60, datetime.now(UTC) + timedelta(seconds=5), BEFORE_ALL, 100)
        ).deleted == 2
        await conn.commit()
    await Pruner(engine, 60, 60).run_once()
    left = {row["name"] for row in await rows(engine, "SELECT name FROM schedule_runs")}
    assert left == {"at-work", "young", "failed"}
