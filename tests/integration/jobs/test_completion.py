"""running -> anything, through the fence: the wrong attempt, worker, status or a second time change nothing."""

import asyncio
from uuid import UUID

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.transitions import RunningAttempt, Transition
from tests.support.ledger.jobs import apply, claim, put, running_attempt, the_job
from tests.support.ledger.sql import do, rows


async def running(engine: AsyncEngine) -> RunningAttempt:
    await put(engine, callback_url="http://example.com/")
    (claimed,) = await claim(engine, 1)
    return running_attempt(claimed)


async def snapshot(engine: AsyncEngine) -> list[object]:
    return [
        await rows(engine, f"SELECT {columns} FROM {table} ORDER BY 1, 2")
        for table, columns in (
            ("jobs", "id, status, attempt, result::text, error::text, finished_at, crashes, max_attempts, run_at"),
            ("attempts", "job_id, attempt, finished_at, outcome, error::text"),
            ("outbox", "job_id, attempt, due_at, published"),
            ("dead_letters", "job_id, class, message, failed_at"),
        )
    ]


async def test_claiming_opens_a_lease_and_takes_the_row_away(engine: AsyncEngine) -> None:
    one = await running(engine)
    job = await the_job(engine, one.job_id)
    assert (job["status"], job["attempt"]) == ("running", 1)
    assert job["started_at"] is not None
    (lease,) = await rows(engine, "SELECT * FROM attempts")
    assert (lease["job_id"], lease["attempt"], lease["worker_id"]) == (one.job_id, 1, one.worker_id)
    assert lease["finished_at"] is None
    assert await rows(engine, "SELECT * FROM outbox") == []


async def test_success(engine: AsyncEngine) -> None:
    one = await running(engine)
    assert await apply(engine, transitions.succeeded(one, '{"n":1}')) == [True]
    job = await the_job(engine, one.job_id)
    assert (job["status"], job["result"], job["error"]) == ("succeeded", {"n": 1}, None)
    assert job["finished_at"] is not None
    (lease,) = await rows(engine, "SELECT * FROM attempts")
    assert (lease["outcome"], lease["error"]) == ("succeeded", None)
    assert lease["finished_at"] == job["finished_at"]
    (delivery,) = await rows(engine, "SELECT * FROM jobs WHERE type = 'webhook.deliver'")
    assert [row["job_id"] for row in await rows(engine, "SELECT * FROM outbox")] == [delivery["id"]]


async def test_a_retry_goes_to_the_outbox_for_its_time(engine: AsyncEngine) -> None:
    one = await running(engine)
    assert await apply(engine, transitions.failed(one, FailureClass.TRANSIENT, "x", 0.0)) == [True]
    job = await the_job(engine, one.job_id)
    assert (job["status"], job["error"]["class"], job["finished_at"]) == ("retrying", "transient", None)
    (row,) = await rows(engine, "SELECT *, due_at - now() < '61 s' AND due_at - now() > '50 s' AS on_time FROM outbox")
    assert (row["job_id"], row["attempt"], row["published"], row["on_time"]) == (one.job_id, 1, False, True)
    assert row["due_at"] == job["run_at"]


async def test_handing_back_gives_the_attempt_back(engine: AsyncEngine) -> None:
    one = await running(engine)
    assert await apply(engine, transitions.handed_back(one)) == [True]
    job = await the_job(engine, one.job_id)
    assert (job["status"], job["attempt"], job["max_attempts"], job["error"]) == ("queued", 1, 4, None)


def all_transitions(one: RunningAttempt) -> list[Transition]:
    return [
        transitions.succeeded(one, "{}"),
        transitions.failed(one, FailureClass.TRANSIENT, "x", 0.0),
        transitions.failed(one, FailureClass.INVALID, "x", 0.0),
        transitions.crashed(one, 0.0),
        transitions.handed_back(one),
        transitions.unrecordable(one),
    ]


@pytest.mark.parametrize("number", range(6))
async def test_the_wrong_attempt_worker_or_job_changes_nothing(engine: AsyncEngine, number: int) -> None:
    one = await running(engine)
    before = await snapshot(engine)
    for wrong in (
        msgspec.structs.replace(one, attempt=0),
        msgspec.structs.replace(one, attempt=2),
        msgspec.structs.replace(one, worker_id=UUID(int=0xB)),
        msgspec.structs.replace(one, job_id=UUID(int=0xC)),
    ):
        assert await apply(engine, all_transitions(wrong)[number]) == [False]
    assert await snapshot(engine) == before


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize(
    "status", ["scheduled", "blocked", "queued", "retrying", "succeeded", "failed", "cancelled", "expired"]
)
async def test_a_job_that_is_not_running_is_left_alone(engine: AsyncEngine, status: str, number: int) -> None:
    one = await running(engine)
    await do(engine, "UPDATE jobs SET status = :status", status=status)
    before = await snapshot(engine)
    assert await apply(engine, all_transitions(one)[number]) == [False]
    assert await snapshot(engine) == before


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("second", range(6))
async def test_the_second_outcome_of_an_attempt_is_fenced_off(engine: AsyncEngine, first: int, second: int) -> None:
    one = await running(engine)
    assert await apply(engine, all_transitions(one)[first]) == [True]
    before = await snapshot(engine)
    assert await apply(engine, all_transitions(one)[second]) == [False]
    assert await snapshot(engine) == before


async def test_a_zombie_is_fenced_off_by_the_next_attempt(engine: AsyncEngine) -> None:
    """SIGSTOP, rescue, another worker, SIGCONT."""
    zombie = await running(engine)
    await apply(engine, transitions.crashed(zombie, 0.0))
    await do(engine, "UPDATE outbox SET published = true")
    (again,) = await claim(engine, 1, UUID(int=0xB))
    assert again.job.attempt == 2
    before = await snapshot(engine)
    assert await apply(engine, transitions.succeeded(zombie, '"zombie"')) == [False]
    assert await snapshot(engine) == before
    assert await apply(engine, transitions.succeeded(running_attempt(again), '"good"')) == [True]
    assert (await the_job(engine, zombie.job_id))["result"] == "good"


async def test_in_a_batch_the_fence_is_each_members_own(engine: AsyncEngine) -> None:
    await put(engine, 10)
    batch = [running_attempt(claimed) for claimed in await claim(engine, 10)]
    mixed = [msgspec.structs.replace(one, attempt=9) if n % 2 else one for n, one in enumerate(batch)]
    assert (
        await apply(engine, *(transitions.succeeded(one, f'"{n}"') for n, one in enumerate(mixed))) == [True, False] * 5
    )
    for number, one in enumerate(batch):
        job = await the_job(engine, one.job_id)
        assert (job["status"], job["result"]) == (("running", None) if number % 2 else ("succeeded", str(number)))


async def test_outcomes_at_once_record_one(engine: AsyncEngine) -> None:
    for _ in range(5):
        one = await running(engine)
        done = await asyncio.gather(*(apply(engine, transition) for transition in all_transitions(one)))
        assert sum(map(sum, done)) == 1
        (lease,) = await rows(engine, "SELECT * FROM attempts WHERE job_id = :id", id=one.job_id)
        assert lease["finished_at"] is not None


async def test_two_batches_of_the_same_jobs_do_not_deadlock(engine: AsyncEngine) -> None:
    await put(engine, 60)
    batch = [transitions.succeeded(running_attempt(claimed), "{}") for claimed in await claim(engine, 60)]
    one, two = await asyncio.gather(apply(engine, *batch), apply(engine, *batch[::-1]))
    assert [a != b for a, b in zip(one, two[::-1], strict=True)] == [True] * 60


@pytest.mark.parametrize("type_", ["noop", "webhook.deliver"])
async def test_status_changes_are_heap_only(engine: AsyncEngine, type_: str) -> None:
    """`jobs` has no index on anything that changes (app/accepted/storage/db/job_tables.py), and room on each page: HOT
    updates."""
    payload = f'{{"job_id": "{UUID(int=1)}", "event": "{"x" * 100}"}}'
    await do(engine, "SELECT pg_stat_reset()")
    await do(engine, "ALTER TABLE jobs SET (autovacuum_enabled = off)")  # its ANALYZE would keep old versions alive
    for _ in range(10):
        await put(engine, 50, type=type_, payload=payload)
        batch = [running_attempt(claimed) for claimed in await claim(engine, 50)]
        await apply(engine, *(transitions.failed(one, FailureClass.TRANSIENT, "x", 0.0) for one in batch))
        await do(engine, "UPDATE outbox SET published = true, due_at = now()")
        batch = [running_attempt(claimed) for claimed in await claim(engine, 50)]
        await apply(engine, *(transitions.succeeded(one, "{}") for one in batch))
    await do(engine, "SELECT pg_stat_force_next_flush()")
    query = "SELECT sum(n_tup_upd) n, sum(n_tup_hot_upd) hot FROM pg_stat_user_tables WHERE relname = 'jobs'"
    for _ in range(100):  # each connection of the pool reports for itself, within a second
        (stats,) = await rows(engine, query)
        if stats["n"] >= 2000:
            break
        await asyncio.sleep(0.1)
    assert stats["n"] >= 2000
    print(dict(stats))
    assert stats["hot"] / stats["n"] > 0.7, dict(stats)
