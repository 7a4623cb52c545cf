"""`ctx.transaction()`: the handler's writes commit together with its success, or not at all."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, job
from tests.support.ledger.effects import WRITE, effects, engine_with_effects, mine, nobody_holds_a_transaction, writes
from tests.support.ledger.sql import do, rows
from tests.support.service.worker_with_handlers import worker_with_handlers


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with engine_with_effects(database_url) as engine:
        yield engine


async def test_the_writes_are_visible_with_the_success_and_not_before(engine: AsyncEngine, database_url: str) -> None:
    seen: list[object] = []

    @job("writes", queue="q")
    async def writes(payload: dict[str, Any], ctx: Context) -> None:
        async with ctx.transaction() as conn:
            await conn.execute(WRITE, mine(ctx))
        seen.append(await effects(engine))

    async with worker_with_handlers(engine, database_url, writes) as shop:
        done = await shop.finish("writes", callback_url="http://example.com/")
    assert seen == [[]]
    assert (done.status, await effects(engine)) == ("succeeded", [1])
    assert len(await rows(engine, "SELECT 1 FROM jobs WHERE type = 'webhook.deliver'")) == 1
    same = await rows(
        engine, "SELECT j.xmin::text AS a, e.xmin::text AS b FROM public.effects e JOIN jobs j ON j.id = e.job_id"
    )
    assert [row["a"] for row in same] == [row["b"] for row in same], "one transaction wrote both"
    await nobody_holds_a_transaction(engine)


async def test_a_def_handler_has_it_too(engine: AsyncEngine, database_url: str) -> None:
    @job("writes", queue="q")
    def writes(payload: dict[str, Any], ctx: Context) -> int:
        with ctx.transaction() as conn:
            conn.execute(WRITE, mine(ctx))
            return conn.execute(text("SELECT count(*) FROM effects")).scalar_one()

    async with worker_with_handlers(engine, database_url, writes) as shop:
        assert (await shop.finish("writes")).result == "1"
    assert await effects(engine) == [1]


async def test_a_failed_attempt_writes_nothing(engine: AsyncEngine, database_url: str) -> None:
    async with worker_with_handlers(engine, database_url, writes) as shop:
        done = await shop.finish("writes", {"fail": 2})
    assert (done.status, await effects(engine)) == ("succeeded", [3])
    await nobody_holds_a_transaction(engine)


async def test_a_timeout_leaves_no_writes_and_no_locks(engine: AsyncEngine, database_url: str) -> None:
    @job("writes", queue="q", timeout=0.7)
    async def writes(payload: dict[str, Any], ctx: Context) -> None:
        async with ctx.transaction() as conn:
            await conn.execute(WRITE, mine(ctx))
            if ctx.job.attempt == 1:
                await conn.execute(text("SELECT pg_sleep(600)"))

    async with worker_with_handlers(engine, database_url, writes) as shop:
        done = await shop.finish("writes")
        assert (await shop.outcomes(done.id), await effects(engine)) == (["timeout", "succeeded"], [2])
    await nobody_holds_a_transaction(engine)


async def test_a_block_that_raises_is_rolled_back_even_if_the_attempt_goes_on(
    engine: AsyncEngine, database_url: str
) -> None:
    @job("writes", queue="q")
    async def writes(payload: dict[str, Any], ctx: Context) -> str:
        try:
            async with ctx.transaction() as conn:
                await conn.execute(WRITE, mine(ctx))
                raise KeyError
        except KeyError:
            pass
        with pytest.raises(RuntimeError, match="one transaction"):
            async with ctx.transaction():
                pass
        return "went on"

    async with worker_with_handlers(engine, database_url, writes) as shop:
        done = await shop.finish("writes")
    assert (done.result, await effects(engine)) == ('"went on"', [])


async def test_the_handler_cannot_end_the_transaction(engine: AsyncEngine, database_url: str) -> None:
    @job("writes", queue="q")
    async def writes(payload: dict[str, Any], ctx: Context) -> None:
        async with ctx.transaction() as conn:
            await conn.execute(WRITE, mine(ctx))
            for forbidden in (conn.commit, conn.rollback, conn.close):
                with pytest.raises(RuntimeError, match="not for handlers"):
                    await forbidden()
            async with conn.begin_nested() as savepoint:
                await conn.execute(WRITE, mine(ctx))
                await savepoint.rollback()
        assert await effects(engine) == []

    async with worker_with_handlers(engine, database_url, writes) as shop:
        assert (await shop.finish("writes")).status == "succeeded"
    assert await effects(engine) == [1]


async def test_a_handler_that_leaves_its_block_open_fails(engine: AsyncEngine, database_url: str) -> None:
    @job("writes", queue="q")
    async def writes(payload: dict[str, Any], ctx: Context) -> None:
        conn = await ctx.transaction().__aenter__()
        await conn.execute(WRITE, mine(ctx))

    async with worker_with_handlers(engine, database_url, writes) as shop:
        done = await shop.finish("writes")
    assert (done.status, await effects(engine)) == ("failed", [])
    assert "open" in (done.error or "")
    await nobody_holds_a_transaction(engine)


async def test_a_connection_that_dies_fails_the_attempt_as_transient(engine: AsyncEngine, database_url: str) -> None:
    @job("writes", queue="q")
    async def writes(payload: dict[str, Any], ctx: Context) -> None:
        async with ctx.transaction() as conn:
            await conn.execute(WRITE, mine(ctx))
        if ctx.job.attempt == 1:
            await rows(
                engine,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'accepted job%'",
            )

    async with worker_with_handlers(engine, database_url, writes) as shop:
        done = await shop.finish("writes")
        assert await shop.outcomes(done.id) == ["transient", "succeeded"]
    assert await effects(engine) == [2]


async def test_a_commit_that_is_refused_is_a_failure(engine: AsyncEngine, database_url: str) -> None:
    await do(engine, "ALTER TABLE public.effects ADD UNIQUE (attempt) DEFERRABLE INITIALLY DEFERRED")
    await do(engine, "INSERT INTO public.effects VALUES (NULL, 1)")
    async with worker_with_handlers(engine, database_url, writes) as shop:
        done = await shop.finish("writes")
        assert await shop.outcomes(done.id) == ["transient", "succeeded"]
    assert await effects(engine) == [1, 2]


async def test_a_transaction_may_take_longer_than_those_of_the_worker(engine: AsyncEngine, database_url: str) -> None:
    @job("writes", queue="q", timeout=77)
    async def writes(payload: dict[str, Any], ctx: Context) -> list[str]:
        async with ctx.transaction() as conn:
            names = ("idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout")
            return [(await conn.execute(text(f"SHOW {name}"))).scalar_one() for name in names]

    async with worker_with_handlers(engine, database_url, writes) as shop:
        assert (await shop.finish("writes")).result == '["77s","77s","77s"]'


async def test_with_more_transactions_than_connections_some_wait(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accepted.storage.attempts.handler_transactions.AT_ONCE", 1)
    async with worker_with_handlers(engine, database_url, writes) as shop:
        jobs = [await shop.accept("writes") for _ in range(4)]
        done = await asyncio.gather(*map(shop.finished, jobs))
    assert {(one.status, one.attempt) for one in done} == {("succeeded", 1)}
    assert await effects(engine) == [1] * 4
