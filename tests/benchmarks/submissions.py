"""Rows 1 and 2: durable, idempotent submissions a second of one API process, against a bare FastAPI application.

Row 1 is acceptance only: COMMIT, then 202. No scheduler runs, so the only publishing is what the API process does
by itself; that is part of its work and is paid for in this figure. Row 2 runs the scheduler as in production, and
its clock stops when the last reference is confirmed by the broker and marked in the outbox.
"""

import asyncio
import time

from tests.benchmarks.client import drive
from tests.benchmarks.figures import Round, Row, compared
from tests.benchmarks.stage import Stage, bare_api

SECONDS = 3.0  # of each half of a round
WARMUP = 0.7
JOBS = 8000  # submitted in a round of row 2


async def accepted(stage: Stage, rounds: int) -> list[Row]:
    """Submissions a second, each committed before its 202."""
    async with bare_api() as bare, stage.api() as (_, port):
        await _warm_up(port, bare)
        found = [await _accepting(stage, port, bare) for _ in range(rounds)]
    return compared("submissions/s, durable and idempotent : bare FastAPI", found, 0.9)


async def on_the_broker(stage: Stage, rounds: int) -> list[Row]:
    """Submissions a second, from the first request until every job is on the broker."""
    async with bare_api() as bare, stage.api() as (_, port), stage.part("scheduler"):
        await _warm_up(port, bare)
        await stage.until_published()
        await stage.sweep()
        found = [await _publishing(stage, port, bare) for _ in range(rounds)]
    return compared("submissions/s until all are on the broker : bare FastAPI", found, 0.5)


async def _accepting(stage: Stage, port: int, bare: int) -> Round:
    reference = await _rate(bare)
    ours = await _rate(port)
    await stage.sweep()
    return Round(ours, reference)


async def _publishing(stage: Stage, port: int, bare: int) -> Round:
    reference = await _rate(bare)
    load = await asyncio.to_thread(drive, port, requests=JOBS)
    await stage.until_published()
    seconds = time.time() - load.started_at
    await stage.on_the_broker("default", JOBS)
    await stage.sweep()
    return Round(JOBS / seconds, reference)


async def _rate(port: int) -> float:
    return (await asyncio.to_thread(drive, port, seconds=SECONDS, warmup=WARMUP)).rate


async def _warm_up(*ports: int) -> None:
    for port in ports:
        await asyncio.to_thread(drive, port, seconds=1.0)
