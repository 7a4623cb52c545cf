"""Firing schedules on the real ledger: what is due is set there, never waited for."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.broker.postgres import PostgresBroker
from app.domain.addresses import EgressAllow
from app.domain.schedule import MISSED, MOST_MISSED, OVERLAP, Schedule, cron_line, smeared
from app.errors import NotFound
from app.services import firing
from app.services import schedules as service
from app.services.catalogue import Catalogue
from app.services.intake import Intake
from app.storage import job_types, schedules
from app.storage.engine import transaction
from tests.integration.test_ledger_submission import do, rows, waits_for_a_lock
from tests.integration.workplace import HANDLERS
from tests.support.waiting import until
from workers.scheduler.cron import Cron
from workers.scheduler.pruner import Pruner

TENANT = "acme"


@pytest.fixture
async def intake(engine: AsyncEngine) -> Intake:
    """The door's own checks, with the built-in types registered."""
    async with transaction(engine) as conn:
        await job_types.register(conn, [handler.type for handler in HANDLERS.values()])
        await conn.commit()
    return Intake(Catalogue(engine, EgressAllow()), EgressAllow(), 1000)


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


async def fire(engine: AsyncEngine, broker: PostgresBroker, intake: Intake) -> int:
    return await firing.fire(engine, broker, intake)


async def test_what_is_due_fires_and_moves_on(engine: AsyncEngine, broker: PostgresBroker, intake: Intake) -> None:
    await put(engine)
    assert await fire(engine, broker, intake) == 0, "nothing is due yet"
    moment = await due(engine)

    assert await fire(engine, broker, intake) == 1
    assert await fire(engine, broker, intake) == 0

    (run,) = await runs(engine)
    assert (run["scheduled_at"], run["outcome"], run["reason"], run["status"]) == (moment, "fired", None, "queued")
    assert (run["job_tenant"], run["tags"], run["traceparent"]) == (TENANT, ["cron"], None)
    (schedule,) = await rows(engine, "SELECT * FROM schedules")
    assert schedule["next_at"] == cron_line("* * * * *", "UTC").next_runs(run["fired_at"], 1)[0]
    assert {row["name"] for row in await rows(engine, "SELECT name FROM queues")} >= {"default"}


async def test_many_schedulers_at_once_fire_each_time_once(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake
) -> None:
    names = [f"s{number}" for number in range(60)]
    for name in names:
        await put(engine, name)
    for _ in range(5):
        await do(engine, "UPDATE schedules SET next_at = now() - interval '1 second'")
        await asyncio.gather(*(fire(engine, broker, intake) for _ in range(8)))
        while await fire(engine, broker, intake):
            pass
    assert len(await rows(engine, "SELECT 1 FROM schedule_runs WHERE outcome = 'fired'")) == 5 * len(names)
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 5 * len(names)


async def test_a_time_that_has_a_row_makes_no_second_job(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake
) -> None:
    """As after a step back of the clock, a restored backup, or a schedule made anew under its name."""
    await put(engine)
    moment = await due(engine)
    await fire(engine, broker, intake)
    await service.delete(engine, TENANT, "s")
    await put(engine)
    await do(engine, "UPDATE schedules SET next_at = :moment", moment=moment)

    assert await fire(engine, broker, intake) == 1

    assert len(await runs(engine)) == 1
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 1
    (schedule,) = await rows(engine, "SELECT next_at > now() AS later FROM schedules")
    assert schedule["later"]


@pytest.mark.parametrize(("on_missed", "fired"), [("skip", []), ("run_once", [-1]), ("run_all", [0, 1, 2, 3])])
async def test_what_was_missed(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake, on_missed: str, fired: list[int]
) -> None:
    """Every five minutes, and nobody there for twenty: the last one was missed by a minute at least."""
    await put(engine, cron="*/5 * * * *", on_missed=on_missed)
    set_back = """
        UPDATE schedules SET next_at = date_trunc('minute', now()) - interval '16 minutes',
            cron = (CAST(EXTRACT(minute FROM now() - interval '1 minute') AS int) % 5) || '-59/5 * * * *'
    """
    await do(engine, set_back)
    await fire(engine, broker, intake)
    found = await runs(engine)
    assert len(found) == 4
    assert [run["scheduled_at"] for run in found if run["outcome"] == "fired"] == [
        found[number]["scheduled_at"] for number in fired
    ]
    assert {run["reason"] for run in found if run["outcome"] == "skipped"} <= {MISSED}
    assert [run["job_id"] is not None for run in found] == [run["outcome"] == "fired" for run in found]
    (schedule,) = await rows(engine, "SELECT next_at > now() AS later FROM schedules")
    assert schedule["later"]


async def test_catching_up_has_an_end(engine: AsyncEngine, broker: PostgresBroker, intake: Intake) -> None:
    await put(engine, on_missed="run_all")
    first = await back(engine, 1300 * 60)
    rounds = 0
    while await fire(engine, broker, intake):
        rounds += 1
    found = await runs(engine)
    assert rounds == 2
    assert [run["outcome"] for run in found] == ["skipped"] * (len(found) - MOST_MISSED) + ["fired"] * MOST_MISSED
    assert [run["scheduled_at"] for run in found] == [
        first + number * timedelta(minutes=1) for number in range(len(found))
    ]
    assert len(found) >= 1300


async def test_an_overlap_is_skipped_until_the_job_has_finished(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake
) -> None:
    await put(engine, overlap="skip")
    await put(engine, "other", overlap="allow")
    for _ in range(2):
        await due(engine)
        await due(engine, "other")
        await fire(engine, broker, intake)
    await do(engine, "UPDATE jobs SET status = 'failed', finished_at = now()")
    await due(engine)
    await fire(engine, broker, intake)

    found = await runs(engine)
    assert [(run["outcome"], run["reason"]) for run in found] == [
        ("fired", None),
        ("skipped", OVERLAP),
        ("fired", None),
    ]
    assert [run["outcome"] for run in await runs(engine, "other")] == ["fired", "fired"]


async def test_times_that_are_caught_up_on_together_overlap(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake
) -> None:
    await put(engine, overlap="skip", on_missed="run_all")
    await back(engine, 180)
    await fire(engine, broker, intake)
    found = await runs(engine)
    assert [run["outcome"] for run in found] == ["fired", *["skipped"] * (len(found) - 1)]
    assert {run["reason"] for run in found[1:]} == {OVERLAP}


async def test_a_run_that_somebody_asked_for_counts_as_an_overlap(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake
) -> None:
    await put(engine, overlap="skip")
    job = await service.trigger(engine, broker, intake, TENANT, "s")
    await due(engine)
    await fire(engine, broker, intake)
    found = {run["outcome"]: run for run in await runs(engine)}
    assert found["triggered"]["job_id"] == job.id
    assert found["skipped"]["reason"] == OVERLAP


async def test_runs_are_smeared_the_same_way_by_whoever_fires(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake
) -> None:
    for name in ("a", "b", "c"):
        await put(engine, name, spread_over=3600.0)
        await due(engine, name)
    await fire(engine, broker, intake)
    found = [(await runs(engine, name))[0] for name in ("a", "b", "c")]
    for run in found:
        wanted = smeared(TENANT, run["name"], run["scheduled_at"], 3600)
        assert run["status"] == "scheduled"
        assert run["run_at"] == wanted
    assert len({run["run_at"] - run["scheduled_at"] for run in found}) == 3


async def test_a_schedule_that_rests_does_not_fire_and_waking_it_replays_nothing(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake
) -> None:
    await put(engine, on_missed="run_all")
    await back(engine, 600)
    assert (await put(engine, on_missed="run_all", enabled=False)).next_at is None
    assert await fire(engine, broker, intake) == 0
    again = await put(engine, on_missed="run_all", enabled=True)
    (clock,) = await rows(engine, "SELECT now() AS now")
    assert again.next_at is not None
    assert again.next_at > clock["now"]
    assert await fire(engine, broker, intake) == 0
    assert await runs(engine) == []


async def test_writing_it_again_loses_no_time_that_is_due(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake
) -> None:
    before = await put(engine)
    moment = await due(engine)
    again = await put(engine, job={"type": "noop", "tags": ["new"]})
    assert (again.next_at, again.created_at) == (moment, before.created_at)
    await fire(engine, broker, intake)
    (run,) = await runs(engine)
    assert (run["scheduled_at"], run["tags"]) == (moment, ["new"])


@pytest.mark.parametrize("change", [{"cron": "0 0 1 1 *"}, {"timezone": "Asia/Tokyo", "cron": "0 0 1 1 *"}])
async def test_another_line_begins_now(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake, change: dict[str, str]
) -> None:
    await put(engine, on_missed="run_all")
    await back(engine, 600)
    written = await put(engine, on_missed="run_all", **change)
    (clock,) = await rows(engine, "SELECT now() AS now")
    assert written.next_at == cron_line(written.cron, written.timezone).next_runs(clock["now"], 1)[0]
    assert await fire(engine, broker, intake) == 0


async def test_a_deleted_schedule_never_fires(engine: AsyncEngine, broker: PostgresBroker, intake: Intake) -> None:
    await put(engine)
    await due(engine)
    await service.delete(engine, TENANT, "s")
    assert await fire(engine, broker, intake) == 0
    assert await rows(engine, "SELECT 1 FROM jobs") == []
    with pytest.raises(NotFound):
        await service.trigger(engine, broker, intake, TENANT, "s")
    with pytest.raises(NotFound):
        await service.delete(engine, TENANT, "s")


@pytest.mark.parametrize("edit", ["put", "delete"])
async def test_an_edit_waits_for_the_fire_that_is_under_way(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake, edit: str
) -> None:
    """And the fire passes over a schedule that is being edited."""
    await put(engine)
    await due(engine)
    async with transaction(engine) as conn:
        held, _ = await schedules.lock_due(conn, 10)
        editing = asyncio.create_task(put(engine) if edit == "put" else service.delete(engine, TENANT, "s"))
        await until(lambda: waits_for_a_lock(engine), 30, "the edit to wait")
        assert await fire(engine, broker, intake) == 0
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
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake, change: str, reason: str
) -> None:
    await put(engine)
    await put(engine, "healthy", job={"type": "sleep", "payload": {"seconds": 0}})
    await do(engine, change)
    for _ in range(2):
        await due(engine)
        await due(engine, "healthy")
        assert await fire(engine, broker, intake) == 2
    found = await runs(engine)
    assert [(run["outcome"], run["job_id"]) for run in found] == [("failed", None)] * 2
    assert all(run["reason"].startswith(reason) for run in found)
    assert [run["outcome"] for run in await runs(engine, "healthy")] == ["fired", "fired"]


async def test_a_line_that_cannot_be_read_any_more_fails_once_and_holds_nobody_up(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake
) -> None:
    await put(engine)
    await put(engine, "healthy")
    await do(engine, "UPDATE schedules SET timezone = 'Mars/Base' WHERE name = 's'")
    await due(engine)
    await due(engine, "healthy")
    assert await fire(engine, broker, intake) == 2
    assert await fire(engine, broker, intake) == 0
    (run,) = await runs(engine)
    assert (run["outcome"], run["reason"]) == ("failed", "the line is no IANA time zone")
    assert [one["outcome"] for one in await runs(engine, "healthy")] == ["fired"]


async def test_a_clock_that_went_back_neither_doubles_nor_hangs(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake
) -> None:
    """Seen from now, the clock was a year ahead when the last time was fired, or the schedule written."""
    for name in ("fired", "written", "untouched"):
        await put(engine, name, cron="0 0 * * *" if name == "untouched" else "* * * * *")
    await due(engine, "fired")
    await fire(engine, broker, intake)
    await do(engine, "UPDATE schedule_runs SET fired_at = fired_at + interval '1 year'")
    await do(engine, "UPDATE schedules SET next_at = next_at + interval '1 year' WHERE name <> 'untouched'")
    await do(engine, "UPDATE schedules SET updated_at = updated_at + interval '1 year' WHERE name = 'written'")

    assert await firing.mend(engine) == 2
    assert await firing.mend(engine) == 0

    (clock,) = await rows(engine, "SELECT now() AS now")
    next_minute = cron_line("* * * * *", "UTC").next_runs(clock["now"], 1)[0]
    found = await rows(engine, "SELECT name, next_at FROM schedules WHERE name <> 'untouched'")
    assert {row["next_at"] for row in found} <= {next_minute, next_minute - timedelta(minutes=1)}


async def test_the_loop_waits_for_what_is_due_next(engine: AsyncEngine, broker: PostgresBroker, intake: Intake) -> None:
    loop = Cron(engine, broker, intake)
    assert await loop.run_once() == 0
    assert loop.pause(0) == 0.25
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


async def test_old_runs_are_forgotten_but_not_those_at_work(
    engine: AsyncEngine, broker: PostgresBroker, intake: Intake
) -> None:
    for name in ("done", "at-work", "young"):
        await put(engine, name)
        await due(engine, name)
    await fire(engine, broker, intake)
    finished = "UPDATE jobs SET status = 'succeeded', finished_at = now() WHERE id = :id"
    for name in ("done", "young"):
        await do(engine, finished, id=(await runs(engine, name))[0]["job_id"])
    aged = "UPDATE schedule_runs SET scheduled_at = scheduled_at - interval '25 hours' WHERE name <> 'young'"
    await do(engine, aged)
    await Pruner(engine, 60, 60).run_once()
    assert {row["name"] for row in await rows(engine, "SELECT name FROM schedule_runs")} == {"at-work", "young"}
