"""Only the attempt with the lease can commit its transaction, however late another one tries."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, job
from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import LeaseLost
from accepted.domain.references import Lease
from accepted.services.jobs.completion import settle, settle_whole
from accepted.storage.attempts.handler_transactions import HandlerTransactions
from accepted_worker.attempt.threads import LoopBridge
from accepted_worker.attempt.tools import AttemptTransaction
from accepted_worker.runtime import recording
from tests.support.ledger.effects import WRITE, effects, engine_with_effects, mine, nobody_holds_a_transaction, writes
from tests.support.ledger.jobs import claim, put, running_attempt, the_job
from tests.support.ledger.sql import do
from tests.support.service.worker_with_handlers import worker_with_handlers


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with engine_with_effects(database_url) as engine:
        yield engine


async def test_a_rescued_attempt_cannot_commit(engine: AsyncEngine, database_url: str) -> None:
    """A zombie: it has written and it returns, but another attempt has the job."""
    written, go_on = asyncio.Event(), asyncio.Event()

    @job("writes", queue="q")
    async def writes(payload: dict[str, Any], ctx: Context) -> int:
        async with ctx.transaction() as conn:
            await conn.execute(WRITE, mine(ctx))
        if ctx.job.attempt == 1:
            written.set()
            await go_on.wait()
        return ctx.job.attempt

    async with worker_with_handlers(engine, database_url, writes) as shop:
        job_id = await shop.accept("writes")
        await written.wait()
        await shop.rescue(job_id)
        go_on.set()
        done = await shop.finished(job_id)
    assert (done.result, await effects(engine)) == ("2", [2])
    assert await shop.outcomes(job_id) == ["crashed", "succeeded"]


async def test_the_transaction_of_a_worker_that_hangs_is_ended_by_the_next_attempt(
    engine: AsyncEngine, database_url: str
) -> None:
    """Otherwise its locks would block every later attempt, for as long as PostgreSQL keeps the connection."""
    await do(engine, "INSERT INTO public.effects VALUES (NULL, 0)")
    hangs = HandlerTransactions(database_url)
    (job_id,) = await put(engine, type="writes")
    (claimed,) = await claim(engine)
    zombie = await hangs.begin(claimed.lease, 600)
    await zombie.worker_connection.execute(text("UPDATE effects SET attempt = -1"))

    @job("writes", queue="q")
    async def writes(payload: dict[str, Any], ctx: Context) -> None:
        async with ctx.transaction() as conn:
            await conn.execute(text("UPDATE effects SET attempt = attempt + 1"))

    async with worker_with_handlers(engine, database_url, writes) as shop:
        await rescue(engine, shop.broker, claimed)
        done = await shop.finished(job_id)
    assert (done.status, done.attempt, await effects(engine)) == ("succeeded", 2, [1])
    await zombie.abandon()

    with pytest.raises(LeaseLost):
        await hangs.begin(claimed.lease, 600)
    await hangs.close()


async def rescue(engine: AsyncEngine, broker: PostgresBroker, claimed: Any) -> None:
    assert await settle(engine, broker, [transitions.crashed(running_attempt(claimed), 0.0)]) == [True]


async def test_after_a_commit_without_an_answer_the_fence_decides(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has committed, and the answer was lost. The failure that is recorded then must change nothing."""

    async def deaf(*arguments: Any) -> bool:
        assert await settle_whole(*arguments)
        raise TimeoutError

    monkeypatch.setattr(recording, "settle_whole", deaf)
    async with worker_with_handlers(engine, database_url, writes) as shop:
        done = await shop.finish("writes")
    assert (done.status, done.attempt, await effects(engine)) == ("succeeded", 1, [1])
    assert await shop.outcomes(done.id) == ["succeeded"]


async def test_the_fence_of_the_commit(engine: AsyncEngine, database_url: str) -> None:
    (job_id,) = await put(engine)
    (claimed,) = await claim(engine)
    handler_transactions = HandlerTransactions(database_url)
    broker = PostgresBroker(engine, database_url)
    for wrong in (Lease(job_id, 2, claimed.worker_id), Lease(job_id, 1, job_id)):
        with pytest.raises(LeaseLost):
            await handler_transactions.begin(wrong, 60)
    handler_transaction = await handler_transactions.begin(claimed.lease, 60)
    await handler_transaction.worker_connection.execute(WRITE, {"job_id": job_id, "attempt": 1})
    await rescue(engine, broker, claimed)
    success = transitions.succeeded(running_attempt(claimed), "1")
    assert await settle_whole(await handler_transaction.for_settlement(), broker, success, 10) is False
    await handler_transaction.abandon()
    assert ((await the_job(engine, job_id))["status"], await effects(engine)) == ("queued", [])
    await handler_transactions.close()


async def test_a_transaction_that_begins_after_its_attempt_is_ended_at_once(
    engine: AsyncEngine, database_url: str
) -> None:
    """An orphaned handler begins it: it was told to end while it waited for a connection."""
    await put(engine)
    (claimed,) = await claim(engine)
    handler_transactions = HandlerTransactions(database_url)
    late = AttemptTransaction(handler_transactions, claimed.lease, 60, LoopBridge())
    begun = asyncio.create_task(late.__aenter__())
    await asyncio.sleep(0)
    assert late.take() is None
    with pytest.raises(LeaseLost):
        await begun
    await nobody_holds_a_transaction(engine)
    await handler_transactions.close()
