"""What a transaction that somebody holds open costs a busy service.

No version of a row that it could still see can be removed, and no index entry of one. The outbox and the open attempts
are small tables with many changes, so that every search by their indexes passes the entries of all jobs since it began.

The load is as much as the service carries: rounds of `JOBS`, each submitted as fast as the API takes them while a
worker runs them, until the last has ended. The same without the transaction comes before and after it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import mean
from typing import Any

import asyncpg

from tests.benchmarks.client import drive
from tests.benchmarks.draining import UNFINISHED
from tests.benchmarks.figures import Row
from tests.benchmarks.stage import Stage
from tests.support.waiting import until

JOBS = 10_000
WINDOW = 60.0  # seconds
GOAL = 0.8
QUEUE = "default"


async def measured(stage: Stage, minutes: int) -> list[Row]:
    """api, scheduler, and a worker with its default slots, on RabbitMQ."""
    beside = max(minutes // 2, 1)
    async with stage.api() as (_, port), stage.part("scheduler"), stage.part("worker"), stage.ledger() as conn:
        await _round(conn, port)
        before = await _windows(conn, port, beside)
        await stage.forget()
        async with _held(stage):
            held = await _windows(conn, port, minutes)
        await stage.forget()
        after = await _windows(conn, port, beside)
    await stage.sweep(QUEUE)
    free = mean(before + after)
    return [
        Row(
            f"jobs/s, submitted and run, beside a transaction of {minutes} min : without",
            f"{mean(held) / free:.2f}, {mean(held):,.0f}/s : {free:,.0f}/s",
            f">= {GOAL:g}",
            mean(held) >= GOAL * free,
        ),
        Row("by minute", f"{_listed(before)}; held {_listed(held)}; then {_listed(after)}"),
    ]


@asynccontextmanager
async def _held(stage: Stage) -> AsyncIterator[None]:
    """A transaction with an id and a snapshot, as a backup or a forgotten session has one."""
    async with stage.ledger() as conn, conn.transaction(isolation="repeatable_read"):
        await conn.execute("SELECT pg_current_xact_id(), (SELECT count(*) FROM outbox)")
        yield


async def _windows(conn: "asyncpg.Connection[Any]", port: int, minutes: int) -> list[float]:
    """Jobs a second in each minute."""
    rates = []
    for _ in range(minutes):
        start, jobs = time.monotonic(), 0
        while time.monotonic() < start + WINDOW:
            jobs += await _round(conn, port)
        rates.append(jobs / (time.monotonic() - start))
        print(f"{rates[-1]:,.0f} jobs/s", flush=True)
    return rates


async def _round(conn: "asyncpg.Connection[Any]", port: int) -> int:
    await asyncio.to_thread(drive, port, requests=JOBS)

    async def finished() -> bool:
        return not await conn.fetchval(UNFINISHED, QUEUE)

    await until(finished, WINDOW, f"{JOBS} jobs run", interval=0.1)
    return JOBS


def _listed(rates: list[float]) -> str:
    return ", ".join(f"{rate:,.0f}" for rate in rates)
