"""A table for what a handler writes in `ctx.transaction()`, and a handler that writes one row for each attempt."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, TransientError, job
from accepted.storage.db.engine import create_engine
from tests.support.ledger.sql import do, rows
from tests.support.waiting import until

WRITE = text("INSERT INTO effects (job_id, attempt) VALUES (:job_id, :attempt)")


@asynccontextmanager
async def engine_with_effects(database_url: str) -> AsyncIterator[AsyncEngine]:
    """The ledger, and the table `effects` of an application beside it, in `public`."""
    engine = create_engine(database_url)
    await do(engine, "CREATE TABLE public.effects (job_id uuid, attempt int)")
    yield engine
    await engine.dispose()


def mine(ctx: Context) -> dict[str, Any]:
    return {"job_id": ctx.job.id, "attempt": ctx.job.attempt}


async def effects(engine: AsyncEngine) -> list[int]:
    return [row["attempt"] for row in await rows(engine, "SELECT attempt FROM public.effects ORDER BY 1")]


async def nobody_holds_a_transaction(engine: AsyncEngine) -> None:
    async def free() -> bool:
        return not await rows(engine, "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'accepted job%'")

    await until(free, 10, "no transaction to be left open")


@job("writes", queue="q")
async def writes(payload: dict[str, Any], ctx: Context) -> str:
    async with ctx.transaction() as conn:
        await conn.execute(WRITE, mine(ctx))
    if ctx.job.attempt <= payload.get("fail", 0):
        raise TransientError("after the block")
    return "written"
