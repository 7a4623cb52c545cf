"""How fast the pruner deletes, and what submissions notice of it."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

import asyncpg

from tests.benchmarks.client import drive
from tests.benchmarks.figures import Failed, Round, Row, compared, percentile
from tests.benchmarks.scale.running import api, scheduler, started

OLD, YOUNGER = "ACCEPTED_RETENTION=3d", "ACCEPTED_RETENTION=1d"
"""The jobs were written over 6 days. Half of them, but not the failed ones, are deleted beside submissions, and then a
third at rest."""

PRUNED_FOR = 20.0
"""Seconds for which the pruner is watched."""

ROUNDS = 3
RATE = 300.0  # submissions a second
SECONDS = 10
P99_GOAL = 1.5

_DELETED = "SELECT n_tup_del FROM pg_stat_user_tables WHERE schemaname = 'accepted' AND relname = 'jobs'"


async def beside_submissions(url: str, conn: "asyncpg.Connection[Any]") -> list[Row]:
    """The p99 of submissions while the pruner deletes, against that while a scheduler without old jobs runs."""
    found, rates = [], []
    async with AsyncExitStack() as stack:
        port = await api(stack, url)
        await _p99(url, port)
        for _ in range(ROUNDS):
            bare = await _p99(url, port)
            before, start = await conn.fetchval(_DELETED), time.monotonic()
            pruning = await _p99(url, port, OLD)
            deleted = await conn.fetchval(_DELETED) - before
            if not deleted:
                break  # none is left
            rates.append(deleted / (time.monotonic() - start))
            found.append(Round(pruning, bare))
    if not found:
        raise Failed("the pruner deleted nothing beside submissions")
    name = f"p99 of POST /jobs at {RATE:g}/s while jobs are deleted : while none are"
    meanwhile = Row("jobs/s deleted meanwhile", ", ".join(f"{rate:,.0f}" for rate in rates))
    return [*compared(name, found, P99_GOAL, unit=" ms", less_is_better=True), meanwhile]


async def _p99(url: str, port: int, *settings: str) -> float:
    """Milliseconds, with a scheduler of its own that has these settings."""
    async with AsyncExitStack() as stack:
        await scheduler(stack, url, *settings)
        load = await asyncio.to_thread(drive, port, requests=int(RATE * SECONDS), rate=RATE)
    return percentile(load.taken, 0.99) * 1000


async def at_rest(url: str, conn: "asyncpg.Connection[Any]", submitted: float) -> Row:
    """Jobs a second that the scheduler deletes while nothing else runs, against `submitted` a second."""
    seen: list[tuple[float, int]] = []
    before = await conn.fetchval(_DELETED)
    async with AsyncExitStack() as stack:
        started(stack, url, "scheduler", YOUNGER)
        end = time.monotonic() + PRUNED_FOR
        while time.monotonic() < end:
            deleted = await conn.fetchval(_DELETED) - before
            if deleted and (not seen or deleted > seen[-1][1]):
                seen.append((time.monotonic(), deleted))
            await asyncio.sleep(0.1)
    if len(seen) < 2:
        raise Failed(f"the pruner deleted {seen[-1][1] if seen else 0} jobs at once: too few to tell its rate")
    (first_at, first), (last_at, last) = seen[0], seen[-1]
    rate = (last - first) / (last_at - first_at)
    ratio = rate / submitted
    return Row(
        "jobs/s deleted at rest : submissions/s", f"{rate:,.0f} : {submitted:,.0f} = {ratio:.2f}", ">= 3", ratio >= 3
    )
