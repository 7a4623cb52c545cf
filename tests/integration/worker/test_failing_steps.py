"""Steps that raise or never return fail their own attempt, and affect no other job."""

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, job
from accepted.domain.failures import LeaseLost
from accepted.metrics import ORPHANED_HANDLERS
from accepted.storage.db.engine import transaction
from tests.support.service.worker_with_handlers import worker_with_handlers
from tests.support.waiting import until


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
async def test_an_exception_that_would_end_the_worker_fails_the_attempt(
    engine: AsyncEngine, database_url: str, raised: BaseException, is_async: bool
) -> None:
    def leave() -> None:
        raise raised

    async def leave_soon() -> None:
        await asyncio.gather(asyncio.sleep(0), asyncio.to_thread(leave))

    @job("charges", queue="q")
    def charges(payload: dict[str, Any], ctx: Context) -> object:
        return ctx.step("charge", leave_soon if is_async else leave)

    async with worker_with_handlers(engine, database_url, charges) as shop:
        done = await shop.finish("charges", max_attempts=1)
    assert (done.status, '"class":"transient"' in (done.error or "")) == ("failed", True), done.error
    assert type(raised).__name__ in (done.error or "")


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
async def test_stop_iteration_in_a_step_fails_the_attempt(
    engine: AsyncEngine, database_url: str, is_async: bool
) -> None:
    """A future cannot hold it, so the attempt once waited until its timeout."""

    @job("charges", queue="q")
    async def charges(payload: dict[str, Any], ctx: Context) -> object:
        return await ctx.step("charge", next, iter([]))

    @job("charges", queue="q")
    def charges_in_a_thread(payload: dict[str, Any], ctx: Context) -> object:
        return ctx.step("charge", next, iter([]))

    async with worker_with_handlers(engine, database_url, charges if is_async else charges_in_a_thread) as shop:
        done = await shop.finish("charges", max_attempts=1, timeout=5)
    assert '"class":"transient"' in (done.error or "")
    assert "StopIteration" in (done.error or "")


async def test_steps_that_hang_are_counted_and_take_no_thread_from_others(
    engine: AsyncEngine, database_url: str
) -> None:
    gate = threading.Event()

    @job("hangs", queue="q")
    async def hangs(payload: dict[str, Any], ctx: Context) -> None:
        await ctx.step("hang", gate.wait)

    @job("hangs.thread", queue="q")
    def hangs_in_a_thread(payload: dict[str, Any], ctx: Context) -> None:
        ctx.step("hang", gate.wait)

    @job("charges", queue="q")
    async def charges(payload: dict[str, Any], ctx: Context) -> object:
        return await ctx.step("charge", lambda: "paid")

    def count() -> float:
        return ORPHANED_HANDLERS.labels("thread")._value.get()

    before = count()
    async with worker_with_handlers(engine, database_url, hangs, hangs_in_a_thread, charges) as shop:
        hung = [shop.finish(one, timeout=0.5, max_attempts=1) for one in ("hangs", "hangs.thread") * 2]
        assert ["timeout" in (one.error or "") for one in await asyncio.gather(*hung)] == [True] * 4
        await until(lambda: count() == before + 4, 10, lambda: f"four orphaned threads, not {count()}")
        done = await shop.finish("charges", timeout=5, max_attempts=1)
        assert done.result == '"paid"', done.error
        assert not shop.worker._executor.exhausted.is_set(), "the timeout of their type is longer"
        gate.set()
        await until(lambda: count() == before, 10, "the steps to return")


@pytest.mark.parametrize("inner", ["outer", "another"])
@pytest.mark.parametrize("in_a_thread", [False, True], ids=["async def", "def"])
async def test_a_step_within_a_step_is_refused_at_once(
    engine: AsyncEngine, database_url: str, inner: str, in_a_thread: bool
) -> None:
    """With the same name it would wait for itself; with another it would keep a thread while it waits for one."""

    @job("nests", queue="q")
    async def nests(payload: dict[str, Any], ctx: Context) -> object:
        async def outer() -> object:
            return await ctx.step(inner, lambda: 1)

        await ctx.step("before", lambda: 0)
        return await ctx.step("outer", outer)

    @job("nests", queue="q")
    def nests_in_a_thread(payload: dict[str, Any], ctx: Context) -> object:
        ctx.step("before", lambda: 0)
        return ctx.step("outer", lambda: ctx.step(inner, lambda: 1))

    async with worker_with_handlers(engine, database_url, nests_in_a_thread if in_a_thread else nests) as shop:
        done = await shop.finish("nests", timeout=5)
    assert (done.status, done.attempt) == ("failed", 1)
    assert '"class":"invalid","message":"steps do not nest' in (done.error or "")


@pytest.mark.parametrize("in_a_thread", [False, True], ids=["async def", "def"])
async def test_a_step_that_has_run_is_remembered_after_the_timeout_of_its_attempt(
    engine: AsyncEngine, database_url: str, in_a_thread: bool
) -> None:
    """While the ledger refuses steps, but not outcomes."""
    ran: list[int] = []
    told = threading.Event()

    @job("charges", queue="q", timeout=1)
    async def charges(payload: dict[str, Any], ctx: Context) -> None:
        try:
            await ctx.step("charge", ran.append, ctx.job.attempt)
        except asyncio.CancelledError:
            told.set()
            raise

    @job("charges", queue="q", timeout=1)
    def charges_in_a_thread(payload: dict[str, Any], ctx: Context) -> None:
        try:
            ctx.step("charge", ran.append, ctx.job.attempt)
        except LeaseLost:
            told.set()
            raise

    async with worker_with_handlers(engine, database_url, charges_in_a_thread if in_a_thread else charges) as shop:
        async with transaction(engine) as conn:
            await conn.exec_driver_sql("LOCK TABLE steps IN EXCLUSIVE MODE")
            job_id = await shop.accept("charges")
            await until(told.is_set, 10, "the attempt to run out of time")
        done = await shop.finished(job_id)
        assert (done.status, await shop.outcomes(job_id)) == ("succeeded", ["timeout", "succeeded"])
    assert ran == [1]


async def test_a_step_that_is_cancelled_during_its_commit_does_not_run_again(
    engine: AsyncEngine, database_url: str
) -> None:
    ran: list[int] = []
    given_up = asyncio.Event()

    @job("charges", queue="q")
    async def charges(payload: dict[str, Any], ctx: Context) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await ctx.step("charge", ran.append, 1)
        given_up.set()
        await ctx.step("charge", ran.append, 2)

    async with worker_with_handlers(engine, database_url, charges) as shop:
        async with transaction(engine) as conn:
            await conn.exec_driver_sql("LOCK TABLE steps IN EXCLUSIVE MODE")
            job_id = await shop.accept("charges")
            await until(given_up.is_set, 10, "the handler to cancel it")
        assert (await shop.finished(job_id)).status == "succeeded"
    assert ran == [1]


async def test_no_step_on_another_loop_goes_on_after_its_attempt(engine: AsyncEngine, database_url: str) -> None:
    ran: list[int] = []
    go_on, told = asyncio.Event(), threading.Event()

    @job("charges", queue="q")
    def charges(payload: dict[str, Any], ctx: Context) -> None:
        async def charge() -> None:
            await go_on.wait()
            ran.append(ctx.job.attempt)

        async def main() -> None:
            await ctx.step("charge", charge)

        try:
            asyncio.run(main())
        except LeaseLost:
            told.set()

    async with worker_with_handlers(engine, database_url, charges) as shop:
        done = await shop.finish("charges", timeout=1, max_attempts=1)
        assert '"class":"timeout"' in (done.error or "")
        await until(told.is_set, 5, "the handler to get the error")
        go_on.set()
    assert ran == []
