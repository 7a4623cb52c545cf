"""A worker with short jobs claims more of them than it has slots, and gives a slot back when its handler has ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, job
from accepted.broker.postgres import PostgresBroker
from accepted.settings import Settings
from accepted_worker.runtime import claimed_ahead
from tests.support.ledger.brokers import BrokerHarness
from tests.support.ledger.effects import WRITE, engine_with_effects, mine
from tests.support.ledger.limited_queue import put
from tests.support.ledger.sql import do, rows
from tests.support.service.in_process_worker import HANDLERS, handlers_of, working
from tests.support.waiting import until

SLOTS = 2
JOBS = 20
OUTCOMES = 1302
"""The key of an advisory lock."""

CHARGED = "t.outcome = 'handed_back' AND (j.crashes > 0 OR j.max_attempts - j.attempt <> 5)"
FOREVER = 10**9
_running: list[int] = []
_begun: list[str] = []


@job("counted", queue="q")
async def counted(payload: dict[str, Any], ctx: Context) -> None:
    _running.append(_running[-1] + 1 if _running else 1)
    await asyncio.sleep(0)
    _running.append(_running[-1] - 1)


@job("begins", queue="q")
async def begins(payload: dict[str, Any], ctx: Context) -> None:
    _begun.append(str(ctx.job.id))


@job("begins.transaction", queue="q")
async def begins_transaction(payload: dict[str, Any], ctx: Context) -> None:
    async with ctx.transaction() as conn:
        await conn.execute(WRITE, mine(ctx))
    _begun.append(str(ctx.job.id))


TYPES = HANDLERS | handlers_of(counted, begins, begins_transaction)


async def count(engine: AsyncEngine, condition: str) -> int:
    found = "SELECT count(*) AS n FROM jobs j LEFT JOIN attempts t ON t.job_id = j.id AND t.attempt = j.attempt"
    (row,) = await rows(engine, f"{found} WHERE {condition}")
    return int(row["n"])


async def two_long_behind_many_short(harness: BrokerHarness) -> None:
    await put(harness.engine, harness.broker, 600, type="noop", max_attempts=5)
    await put(harness.engine, harness.broker, SLOTS, type="sleep", max_attempts=5, payload='{"seconds": 600}')
    await put(harness.engine, harness.broker, 200, type="noop", max_attempts=5)


async def long_ones_run(engine: AsyncEngine) -> bool:
    return await count(engine, "j.type = 'sleep' AND j.status = 'running'") == SLOTS


async def test_what_waits_behind_long_jobs_goes_to_other_workers_uncharged(harness: BrokerHarness) -> None:
    engine = harness.engine
    await two_long_behind_many_short(harness)
    async with working(engine, harness.broker, concurrency=SLOTS):
        await until(lambda: long_ones_run(engine), 60, "both long jobs to run")

        async def handed_back() -> bool:
            return not await count(engine, "j.type = 'noop' AND j.status = 'running'")

        await until(handed_back, 10, "no short job to wait behind them")
        assert await count(engine, "t.outcome = 'handed_back'") > 0, "none was claimed ahead: this shows nothing"
        assert not await count(engine, CHARGED)
        async with working(engine, harness.broker, concurrency=SLOTS):

            async def done() -> bool:
                return not await count(engine, "j.type = 'noop' AND j.status <> 'succeeded'")

            await until(done, 60, "another worker to run them")
        assert await long_ones_run(engine)


async def test_a_worker_that_stops_hands_them_back_at_once(
    harness: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimed_ahead, "PATIENCE", FOREVER)
    monkeypatch.setattr(claimed_ahead, "LONGEST", FOREVER)
    engine = harness.engine
    await two_long_behind_many_short(harness)
    async with working(engine, harness.broker, concurrency=SLOTS, shutdown_grace=3):
        await until(lambda: long_ones_run(engine), 60, "both long jobs to run")
        assert await count(engine, "j.type = 'noop' AND j.status = 'running'") > 0, "none was claimed ahead"
    assert not await count(engine, "j.status = 'running'")
    assert not await count(engine, CHARGED)


async def test_no_more_handlers_run_than_there_are_slots(harness: BrokerHarness) -> None:
    _running.clear()
    await put(harness.engine, harness.broker, 500, type="counted")
    async with working(harness.engine, harness.broker, concurrency=SLOTS, handlers=TYPES):

        async def done() -> bool:
            return await count(harness.engine, "j.status = 'succeeded'") == 500

        await until(done, 60, "all to run")
    assert max(_running) == SLOTS


@pytest.fixture
async def held(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A ledger that commits no outcome while `OUTCOMES` is locked."""
    async with engine_with_effects(database_url) as engine:
        await do(
            engine,
            f"CREATE FUNCTION public.hold() RETURNS trigger LANGUAGE plpgsql AS "
            f"'BEGIN PERFORM pg_advisory_xact_lock_shared({OUTCOMES}); RETURN NEW; END'",
        )
        await do(engine, "CREATE TRIGGER hold BEFORE UPDATE ON attempts FOR EACH ROW EXECUTE FUNCTION public.hold()")
        yield engine


@pytest.mark.parametrize(("type_", "begin"), [("begins", JOBS), ("begins.transaction", SLOTS)])
async def test_a_slot_is_free_once_its_handler_has_ended_unless_it_has_a_transaction(
    held: AsyncEngine, database_url: str, type_: str, begin: int
) -> None:
    """A transaction keeps a connection until its commit, so there may be no more of them than slots."""
    _begun.clear()
    broker = PostgresBroker(held, database_url)
    settings = Settings(database_url=database_url)
    async with held.connect() as lock, working(held, broker, concurrency=SLOTS, handlers=TYPES, settings=settings):
        await lock.execute(text(f"SELECT pg_advisory_lock({OUTCOMES})"))
        await put(held, broker, JOBS, type=type_)
        await until(lambda: len(_begun) == begin, 20, lambda: f"{begin} to begin, not {len(_begun)}")
        with contextlib.suppress(AssertionError):
            await until(lambda: len(_begun) > begin, 0.5, "more to begin")
        assert len(_begun) == begin
        assert await count(held, "j.status = 'succeeded'") == 0
        await lock.execute(text(f"SELECT pg_advisory_unlock({OUTCOMES})"))

        async def done() -> bool:
            return await count(held, "j.status = 'succeeded'") == JOBS

        await until(done, 20, "all to be recorded")
    assert len(_begun) == JOBS
