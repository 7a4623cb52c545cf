"""`ctx.step`: runs once, is remembered across attempts, and is written only by the attempt with the lease."""

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from accepted import Context, TransientError, job
from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import LeaseLost
from accepted.domain.ids import new_id
from accepted.domain.references import Lease
from accepted.services.jobs.completion import settle
from accepted.storage.attempts import completion
from accepted.storage.db.engine import reading, transaction
from tests.support.ledger.jobs import claim, put, running_attempt
from tests.support.ledger.sql import do, rows, waits_for_a_lock
from tests.support.servers.postgres import PostgresServer
from tests.support.service.worker_with_handlers import MAX_RESULT, worker_with_handlers
from tests.support.waiting import until


async def test_a_step_runs_once_for_all_attempts(engine: AsyncEngine, database_url: str) -> None:
    ran: list[tuple[str, int]] = []

    @job("charges", queue="q")
    async def charges(payload: dict[str, Any], ctx: Context) -> object:
        async def charge(amount: int, *, currency: str) -> object:
            ran.append(("charge", ctx.job.attempt))
            return {"paid": (amount, currency), "at": datetime(2026, 1, 1, tzinfo=UTC)}

        def note() -> str:
            ran.append((threading.current_thread().name[:4], ctx.job.attempt))
            return "noted"

        first = await ctx.step("charge", charge, 5, currency="EUR")
        assert first == await ctx.step("charge", charge, 6, currency="USD"), (
            "a second step of the same name has the result of the first"
        )
        await ctx.step("note", note)
        await ctx.step("nothing", lambda: None)
        if ctx.job.attempt < 3:
            raise TransientError("again")
        return first

    async with worker_with_handlers(engine, database_url, charges) as shop:
        done = await shop.finish("charges")
    assert done.status == "succeeded"
    assert done.result == '{"paid":[5,"EUR"],"at":"2026-01-01T00:00:00Z"}', "as read back from JSON on every attempt"
    assert ran == [("charge", 1), ("step", 1)]
    remembered = await rows(engine, "SELECT name, attempt, result FROM steps WHERE job_id = :id ORDER BY 1", id=done.id)
    assert [(row["name"], row["attempt"]) for row in remembered] == [("charge", 1), ("note", 1), ("nothing", 1)]


async def test_a_step_that_raises_is_not_remembered(engine: AsyncEngine, database_url: str) -> None:
    ran = []

    @job("charges", queue="q")
    def charges(payload: dict[str, Any], ctx: Context) -> object:
        def charge() -> str:
            ran.append(ctx.job.attempt)
            if ctx.job.attempt == 1:
                raise TransientError("declined")
            return "paid"

        return ctx.step("charge", charge)

    async with worker_with_handlers(engine, database_url, charges) as shop:
        done = await shop.finish("charges")
    assert (done.status, done.result, ran) == ("succeeded", '"paid"', [1, 2])


async def test_two_concurrent_steps_of_one_name_run_once(engine: AsyncEngine, database_url: str) -> None:
    ran = []

    @job("charges", queue="q")
    async def charges(payload: dict[str, Any], ctx: Context) -> object:
        async def charge() -> int:
            ran.append(1)
            await asyncio.sleep(0)
            return len(ran)

        return await asyncio.gather(ctx.step("charge", charge), ctx.step("charge", charge))

    async with worker_with_handlers(engine, database_url, charges) as shop:
        assert (await shop.finish("charges")).result == "[1,1]"


@pytest.mark.parametrize("result", [{1, 2, object()}, "x" * (MAX_RESULT + 1)])
async def test_a_result_that_cannot_be_remembered_is_a_dead_letter_at_once(
    engine: AsyncEngine, database_url: str, result: object
) -> None:
    @job("charges", queue="q")
    async def charges(payload: dict[str, Any], ctx: Context) -> None:
        await ctx.step("charge", lambda: result)

    async with worker_with_handlers(engine, database_url, charges) as shop:
        done = await shop.finish("charges")
    assert (done.status, done.attempt) == ("failed", 1)
    assert '"class":"invalid"' in (done.error or "")


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb"])
async def test_names(engine: AsyncEngine, database_url: str, name: str) -> None:
    @job("charges", queue="q")
    async def charges(payload: dict[str, Any], ctx: Context) -> str:
        with pytest.raises(ValueError, match="name"):
            await ctx.step(name, print)
        return "refused"

    async with worker_with_handlers(engine, database_url, charges) as shop:
        assert (await shop.finish("charges")).result == '"refused"'


async def test_a_rescued_attempt_remembers_nothing_and_ends(engine: AsyncEngine, database_url: str) -> None:
    go_on, raised = asyncio.Event(), []

    @job("charges", queue="q")
    async def charges(payload: dict[str, Any], ctx: Context) -> int:
        async def charge() -> int:
            if ctx.job.attempt == 1:
                await go_on.wait()
            return ctx.job.attempt

        try:
            return await ctx.step("charge", charge)
        except LeaseLost as lost:
            raised.append(lost)
            raise

    async with worker_with_handlers(engine, database_url, charges) as shop:
        job_id = await shop.accept("charges")
        await shop.until(job_id, lambda job: job.status == "running", "the job to run")
        await shop.rescue(job_id)
        done = await shop.finished(job_id)
        go_on.set()
    assert len(raised) == 1
    assert (done.result, await shop.outcomes(job_id)) == ("2", ["crashed", "succeeded"])
    assert [row["result"] for row in await rows(engine, "SELECT result FROM steps")] == [2]


async def test_a_thread_that_outlives_its_attempt_gets_lease_lost(engine: AsyncEngine, database_url: str) -> None:
    told = threading.Event()
    started = threading.Event()

    @job("charges", queue="q", timeout=0.5)
    def charges(payload: dict[str, Any], ctx: Context) -> None:
        async def never() -> None:
            started.set()
            await asyncio.Event().wait()

        try:
            ctx.step("charge", never)
        except LeaseLost:
            told.set()

    async with worker_with_handlers(engine, database_url, charges) as shop:
        job_id = await shop.accept("charges", max_attempts=1)
        await shop.until(job_id, lambda job: job.status in ("failed", "retrying"), "the timeout")
        assert started.is_set()
        await until(told.is_set, 10, "the thread to hear of it")


async def running(engine: AsyncEngine) -> Any:
    await put(engine)
    (claimed,) = await claim(engine)
    return claimed


async def remember(engine: AsyncEngine, lease: Lease, name: str = "s") -> bool:
    async with transaction(engine) as conn:
        done = await completion.remember_step(conn, lease, name, "1")
        await conn.commit()
    return done


async def test_the_fence_of_a_step(engine: AsyncEngine) -> None:
    claimed = await running(engine)
    mine = claimed.lease
    assert not await remember(engine, Lease(mine.job_id, 1, new_id()))
    assert not await remember(engine, Lease(mine.job_id, 2, mine.worker_id))
    assert await rows(engine, "SELECT * FROM steps") == []
    assert await remember(engine, mine)
    assert await remember(engine, mine), "the answer to the first commit was lost"
    async with reading(engine) as conn:
        assert await completion.recall_steps(conn, mine) == {"s": "1"}
        assert await completion.recall_steps(conn, Lease(mine.job_id, 1, new_id())) is None
    assert await settle(engine, PostgresBroker(engine, ""), [transitions.succeeded(running_attempt(claimed), "1")]) == [
        True
    ]
    assert not await remember(engine, mine, "late")


async def test_a_rescue_comes_before_or_after_a_step(engine: AsyncEngine) -> None:
    claimed = await running(engine)
    broker = PostgresBroker(engine, "")
    async with transaction(engine) as conn:
        assert await completion.remember_step(conn, claimed.lease, "s", "1")
        rescue = asyncio.create_task(settle(engine, broker, [transitions.crashed(running_attempt(claimed), 0.0)]))
        await until(lambda: waits_for_a_lock(engine), 10, "the rescue to wait for the step")
        await conn.commit()
    assert await rescue == [True]
    assert len(await rows(engine, "SELECT * FROM steps")) == 1

    await do(engine, "UPDATE outbox SET published = true")
    (again,) = await claim(engine)
    async with transaction(engine) as conn:
        await conn.exec_driver_sql("UPDATE attempts SET finished_at = now(), outcome = 'crashed' WHERE attempt = 2")
        late = asyncio.create_task(remember(engine, again.lease, "late"))
        await until(lambda: waits_for_a_lock(engine), 10, "the step to wait for the rescue")
        await conn.commit()
    assert await late is False
    assert len(await rows(engine, "SELECT * FROM steps")) == 1


async def test_a_step_that_has_run_waits_for_the_ledger(
    engine: AsyncEngine, database_url: str, postgres_server: PostgresServer
) -> None:
    ran = []

    @job("charges", queue="q")
    async def charges(payload: dict[str, Any], ctx: Context) -> int:
        async def charge() -> int:
            ran.append(ctx.job.attempt)
            await asyncio.to_thread(postgres_server.kill)
            return 7

        return await ctx.step("charge", charge)

    with capture_logs() as lines:
        async with worker_with_handlers(engine, database_url, charges) as shop:
            job_id = await shop.accept("charges")
            await until(lambda: "handler_waits_for_ledger" in [line["event"] for line in lines], 20, "the step to wait")
            await asyncio.to_thread(postgres_server.start)
            done = await shop.finished(job_id)
    assert (done.status, done.attempt, done.result, ran) == ("succeeded", 1, "7", [1])
