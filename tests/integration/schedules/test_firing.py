"""Firing schedules: each time fires once; missed times, overlaps and spread."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.schedule import MAX_MISSED, MISSED, OVERLAP, UNIQUE, cron_line, smeared
from accepted.errors import Conflict
from accepted.services import schedules as service
from accepted.services.jobs.checks import JobChecks
from accepted.storage.db.engine import transaction
from tests.support.ledger.schedules import TENANT, back, due, fire, job_checks, put, runs
from tests.support.ledger.sql import do, rows, waits_for_a_lock
from tests.support.waiting import until


@pytest.fixture
async def checks(engine: AsyncEngine) -> JobChecks:
    return await job_checks(engine)


async def test_what_is_due_fires_and_moves_on(engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks) -> None:
    await put(engine)
    assert await fire(engine, broker, checks) == 0, "nothing is due yet"
    moment = await due(engine)

    assert await fire(engine, broker, checks) == 1
    assert await fire(engine, broker, checks) == 0

    (run,) = await runs(engine)
    assert (run["scheduled_at"], run["outcome"], run["reason"], run["status"]) == (moment, "fired", None, "queued")
    assert (run["job_tenant"], run["tags"], run["traceparent"]) == (TENANT, ["cron"], None)
    (schedule,) = await rows(engine, "SELECT * FROM schedules")
    assert schedule["next_at"] == cron_line("* * * * *", "UTC").next_runs(run["fired_at"], 1)[0]
    assert {row["name"] for row in await rows(engine, "SELECT name FROM queues")} >= {"default"}


async def test_many_schedulers_at_once_fire_each_time_once(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    names = [f"s{number}" for number in range(60)]
    for name in names:
        await put(engine, name)
    for _ in range(5):
        await do(engine, "UPDATE schedules SET next_at = now() - interval '1 second'")
        await asyncio.gather(*(fire(engine, broker, checks) for _ in range(8)))
        while await fire(engine, broker, checks):
            pass
    assert len(await rows(engine, "SELECT 1 FROM schedule_runs WHERE outcome = 'fired'")) == 5 * len(names)
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 5 * len(names)


async def test_a_time_that_has_a_row_makes_no_second_job(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    """As after a step back of the clock, a restored backup, or a schedule made anew under its name."""
    await put(engine)
    moment = await due(engine)
    await fire(engine, broker, checks)
    await service.delete(engine, TENANT, "s")
    await put(engine)
    await do(engine, "UPDATE schedules SET next_at = :moment", moment=moment)

    assert await fire(engine, broker, checks) == 1

    assert len(await runs(engine)) == 1
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 1
    (schedule,) = await rows(engine, "SELECT next_at > now() AS later FROM schedules")
    assert schedule["later"]


async def test_a_fire_that_is_cut_off_leaves_nothing(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    """A scheduler that dies while it submits the jobs: neither the row nor the next time is written."""
    await put(engine)
    moment = await due(engine)
    async with transaction(engine) as conn:
        await conn.execute(text("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE"))
        firing = asyncio.create_task(fire(engine, broker, checks))
        await until(lambda: waits_for_a_lock(engine), 30, "the fire to wait")
        firing.cancel()
        await asyncio.wait([firing])
    assert await runs(engine) == []
    assert await fire(engine, broker, checks) == 1
    assert [(run["scheduled_at"], run["status"]) for run in await runs(engine)] == [(moment, "queued")]


async def test_what_was_missed(engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks) -> None:
    """Every five minutes, without a scheduler for twenty: the last time was missed by a minute at least."""
    wanted: dict[str, list[int]] = {"skip": [], "run_once": [3], "run_all": [0, 1, 2, 3]}
    for on_missed in wanted:
        await put(engine, on_missed, cron="*/5 * * * *", on_missed=on_missed)
    set_back = """
        UPDATE schedules SET next_at = date_trunc('minute', now()) - interval '16 minutes',
            cron = (CAST(EXTRACT(minute FROM now() - interval '1 minute') AS int) % 5) || '-59/5 * * * *'
    """
    await do(engine, set_back)
    assert await fire(engine, broker, checks) == 3
    assert await fire(engine, broker, checks) == 0
    for on_missed, fired in wanted.items():
        found = await runs(engine, on_missed)
        assert len(found) == 4
        assert [number for number, run in enumerate(found) if run["outcome"] == "fired"] == fired
        assert {run["reason"] for run in found if run["outcome"] == "skipped"} <= {MISSED}
        assert [run["job_id"] is not None for run in found] == [run["outcome"] == "fired" for run in found]


async def test_catching_up_has_an_end(engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks) -> None:
    await put(engine, on_missed="run_all")
    first = await back(engine, 1300 * 60)
    rounds = 0
    while await fire(engine, broker, checks):
        rounds += 1
    found = await runs(engine)
    assert rounds == 2
    assert [run["outcome"] for run in found] == ["skipped"] * (len(found) - MAX_MISSED) + ["fired"] * MAX_MISSED
    assert [run["scheduled_at"] for run in found] == [
        first + number * timedelta(minutes=1) for number in range(len(found))
    ]
    assert len(found) >= 1300


async def test_an_overlap_is_skipped_until_the_job_has_finished(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    await put(engine, overlap="skip")
    await put(engine, "other", overlap="allow")
    for _ in range(2):
        await due(engine)
        await due(engine, "other")
        await fire(engine, broker, checks)
    await do(engine, "UPDATE jobs SET status = 'failed', finished_at = now()")
    await due(engine)
    await fire(engine, broker, checks)

    found = await runs(engine)
    assert [(run["outcome"], run["reason"]) for run in found] == [
        ("fired", None),
        ("skipped", OVERLAP),
        ("fired", None),
    ]
    assert [run["outcome"] for run in await runs(engine, "other")] == ["fired", "fired"]


async def test_times_that_are_caught_up_on_together_overlap(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    await put(engine, overlap="skip", on_missed="run_all")
    await back(engine, 180)
    await fire(engine, broker, checks)
    found = await runs(engine)
    assert [run["outcome"] for run in found] == ["fired", *["skipped"] * (len(found) - 1)]
    assert {run["reason"] for run in found[1:]} == {OVERLAP}


async def test_a_run_that_somebody_asked_for_counts_as_an_overlap(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    await put(engine, overlap="skip")
    job = await service.trigger(engine, broker, "s", await service.job_of(engine, checks, TENANT, "s"))
    await due(engine)
    await fire(engine, broker, checks)
    found = {run["outcome"]: run for run in await runs(engine)}
    assert found["triggered"]["job_id"] == job.id
    assert found["skipped"]["reason"] == OVERLAP


async def test_a_time_at_which_another_job_has_its_unique_key_is_skipped(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    await put(engine, on_missed="run_all", job={"type": "noop", "unique": {"key": "k", "until": "finished"}})
    await back(engine, 180)
    await fire(engine, broker, checks)
    first, *others = await runs(engine)
    assert (first["outcome"], first["status"]) == ("fired", "queued")
    assert {(run["outcome"], run["reason"], run["job_id"]) for run in others} == {("skipped", UNIQUE, None)}
    with pytest.raises(Conflict):
        await service.trigger(engine, broker, "s", await service.job_of(engine, checks, TENANT, "s"))
    assert len(await runs(engine)) == 1 + len(others), "what was not triggered is no run"

    await do(engine, "UPDATE jobs SET status = 'succeeded', finished_at = now()")
    await due(engine)
    await fire(engine, broker, checks)
    assert (await runs(engine))[-1]["outcome"] == "fired"
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 2


async def test_runs_are_smeared_the_same_way_by_every_scheduler(
    engine: AsyncEngine, broker: PostgresBroker, checks: JobChecks
) -> None:
    for name in ("a", "b", "c"):
        await put(engine, name, spread_over=3600.0)
        await due(engine, name)
    await fire(engine, broker, checks)
    found = [(await runs(engine, name))[0] for name in ("a", "b", "c")]
    for run in found:
        wanted = smeared(TENANT, run["name"], run["scheduled_at"], 3600)
        assert run["status"] == "scheduled"
        assert run["run_at"] == wanted
    assert len({run["run_at"] - run["scheduled_at"] for run in found}) == 3
