"""Attempts that end in unusual ways have an outcome all the same, and affect no other job."""

import asyncio
import sys
from typing import Any

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, job
from accepted.storage.attempts.handler_transactions import HandlerTransaction
from accepted_worker.attempt import slots
from tests.support.service.worker_with_handlers import worker_with_handlers
from tests.support.waiting import until


class Exits(Exception):
    def __str__(self) -> str:
        sys.exit(5)


@job("odd", timeout=0.5)
async def odd(payload: dict[str, Any], ctx: Context) -> None:
    """Leaves a transaction open, and raises an exception that Python cannot format."""
    async with ctx.transaction() as conn:
        await conn.execute(text("SELECT 1"))
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        raise SyntaxError("x", ("file", 1, "no number", "text")) from None


@job("exits")
async def exits(payload: dict[str, Any], ctx: Context) -> None:
    """Raises an exception whose `__str__` raises SystemExit."""
    raise Exits


@job("any", timeout=5)
async def any_(payload: dict[str, Any], ctx: Context) -> str:
    """Uses a library that inspects tasks before they start."""
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 600)
        if "raise" in payload:
            raise ValueError("mine")
        group.cancel_scope.cancel()
    return "went on"


@job("tidies", timeout=0.2)
async def tidies(payload: dict[str, Any], ctx: Context) -> None:
    """Cleans up slowly."""
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(2)


@job("fine")
async def fine(payload: dict[str, Any], ctx: Context) -> str:
    """Succeeds."""
    return "fine"


@job("leaves.open")
async def leaves_open(payload: dict[str, Any], ctx: Context) -> None:
    """Fails with an open transaction."""
    async with ctx.transaction() as conn:
        await conn.execute(text("SELECT 1"))
    raise ValueError("no good")


async def test_an_exception_that_cannot_be_formatted_is_an_outcome(engine: AsyncEngine, database_url: str) -> None:
    async with worker_with_handlers(engine, database_url, odd, exits, fine) as shop:
        late = await shop.finish("odd", max_attempts=1)
        assert (late.status, await shop.outcomes(late.id)) == ("failed", ["timeout"])
        failed = await shop.finish("exits", max_attempts=1)
        assert (failed.status, await shop.outcomes(failed.id)) == ("failed", ["transient"])
        assert (await shop.finish("fine")).result == '"fine"'


async def test_a_task_group_of_anyio_works_as_elsewhere(engine: AsyncEngine, database_url: str) -> None:
    async with worker_with_handlers(engine, database_url, any_) as shop:
        assert (await shop.finish("any")).result == '"went on"'
        failed = await shop.finish("any", {"raise": True}, max_attempts=1)
        assert "mine" in (failed.error or "")


async def test_a_handler_that_cleans_up_slowly_does_not_count_as_hanging(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "MAX_ORPHANS", 2)
    async with worker_with_handlers(engine, database_url, tidies, fine) as shop:
        jobs = [await shop.accept("tidies", max_attempts=1) for _ in range(4)]
        for job_id in jobs:
            assert (await shop.finished(job_id)).status == "failed"
            assert await shop.outcomes(job_id) == ["timeout"]
        assert (await shop.finish("fine")).status == "succeeded"
        assert not shop.worker._stopping.is_set()


async def test_a_known_outcome_is_recorded_though_the_worker_stops(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rollback takes longer than the grace of the worker."""
    rolling_back, roll_back = asyncio.Event(), asyncio.Event()
    really = HandlerTransaction.abandon

    async def slowly(transaction: HandlerTransaction) -> None:
        rolling_back.set()
        await roll_back.wait()
        await really(transaction)

    monkeypatch.setattr(HandlerTransaction, "abandon", slowly)
    async with worker_with_handlers(engine, database_url, leaves_open) as shop:
        job_id = await shop.accept("leaves.open", max_attempts=1)
        await rolling_back.wait()
        shop.worker.stop()
        closing = next(iter(shop.worker._lanes[0]._executing))
        await until(lambda: closing.cancelling() > 0, 10, "the end of the grace")
        roll_back.set()
    assert await shop.outcomes(job_id) == ["transient"]
