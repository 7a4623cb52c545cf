"""Real drains, to set the costs by and to compare with: jobs a second, and what each job took of workers and broker."""

import asyncio
from contextlib import AsyncExitStack, nullcontext
from typing import Any, NamedTuple

import asyncpg
import psutil

from tests.benchmarks.client import drive
from tests.benchmarks.draining import BEGUN, SPAN, UNFINISHED
from tests.benchmarks.figures import Failed
from tests.benchmarks.stage import Stage, cpu_time
from tests.support.waiting import until

JOBS = 12_000
WITHIN = 120.0
QUEUE = "default"


class Point(NamedTuple):
    """A fleet, and what it came to: jobs a second, and seconds of CPU of workers, RabbitMQ and PostgreSQL for a job."""

    broker: str
    workers: int
    slots: int
    rate: float
    worker: float
    message: float
    ledger: float


async def drained(stage: Stage, broker: str, workers: int, slots: int) -> Point:
    """`JOBS` no-op jobs, all of which wait when the workers begin. `broker`: "RabbitMQ" or "PostgreSQL"."""
    with stage.on_postgres() if broker == "PostgreSQL" else nullcontext():
        async with stage.api() as (_, port), stage.part("scheduler"):
            await asyncio.to_thread(drive, port, requests=JOBS, queue=QUEUE)
            await stage.until_published()
        async with stage.ledger() as conn, AsyncExitStack() as stack:
            servers = [[stage.broker_pid()], await _server_processes(conn)]
            part = [stage.part("worker", f"--concurrency={slots}") for _ in range(workers)]
            fleet = await asyncio.gather(*map(stack.enter_async_context, part))
            processes = [worker.pid for worker in fleet]
            begun = await conn.fetchval(BEGUN, QUEUE)
            before = [sum(map(cpu_time, each)) for each in (processes, *servers)]

            async def finished() -> bool:
                return not await conn.fetchval(UNFINISHED, QUEUE)

            await until(finished, WITHIN, f"{JOBS} jobs drained", interval=0.1)
            after = [sum(map(cpu_time, each)) for each in (processes, servers[0], await _server_processes(conn))]
            done, seconds = await conn.fetchrow(SPAN, QUEUE)
    if done != JOBS:
        raise Failed(f"{done} of {JOBS} jobs succeeded")
    await stage.sweep()
    worker, message, ledger = ((used - unused) / (JOBS - begun) for used, unused in zip(after, before, strict=True))
    return Point(
        broker, workers, slots, JOBS / float(seconds), worker, message if broker == "RabbitMQ" else 0.0, ledger
    )


async def _server_processes(conn: "asyncpg.Connection[Any]") -> list[int]:
    postmaster = psutil.Process(conn.get_server_pid()).parent()
    assert postmaster is not None
    return [each.pid for each in (postmaster, *postmaster.children())]
