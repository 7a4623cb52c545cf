"""Rows 4 and 5, of a service that is not busy: how long a job takes at 50 a second, and what idling costs."""

import asyncio
from contextlib import AsyncExitStack
from uuid import UUID

from tests.benchmarks.client import drive
from tests.benchmarks.figures import Failed, Row, percentile
from tests.benchmarks.stage import Stage, cpu_time
from tests.support.service.processes import Service
from tests.support.waiting import until

RATE = 50.0
JOBS = 1000
WARMUP_JOBS = 100
SECONDS = 20.0
SETTLE = 3.0

P50_GOAL, P99_GOAL = 6.0, 25.0  # milliseconds
IDLE_GOAL = 1.0  # per cent of a core

_FINISHED = """
SELECT id, EXTRACT(epoch FROM finished_at)::float8 FROM jobs
WHERE id = ANY($1::uuid[]) AND status = 'succeeded'
"""


async def measured(stage: Stage, *, latency: bool, idle: bool) -> list[Row]:
    """api, worker and scheduler on RabbitMQ, one process each; then the latency on PostgreSQL alone."""
    rows = await _measured(stage, "RabbitMQ", latency=latency, idle=idle)
    if latency:
        await stage.sweep()
        with stage.on_postgres():
            rows += await _measured(stage, "PostgreSQL alone", latency=True, idle=False)
    return rows


async def _measured(stage: Stage, broker: str, *, latency: bool, idle: bool) -> list[Row]:
    async with AsyncExitStack() as stack:
        api, port = await stack.enter_async_context(stage.api())
        scheduler = await stack.enter_async_context(stage.part("scheduler"))
        worker = await stack.enter_async_context(stage.part("worker"))
        await _latencies(stage, port, WARMUP_JOBS)
        rows = await _latency(stage, port, broker) if latency else []
        if idle:
            rows += await _idle({"api": api, "worker": worker, "scheduler": scheduler})
    return rows


async def _latency(stage: Stage, port: int, broker: str) -> list[Row]:
    taken = await _latencies(stage, port, JOBS)
    p50, p95, p99 = (percentile(taken, share) for share in (0.50, 0.95, 0.99))
    return [
        Row(f"ms from POST to finished_at at {RATE:g} jobs/s, {broker}, p50", f"{p50:.1f}", "<= 6", p50 <= P50_GOAL),
        Row("p99", f"{p99:.1f}, p95 {p95:.1f}, max {max(taken):.1f}", "<= 25", p99 <= P99_GOAL),
    ]


async def _latencies(stage: Stage, port: int, jobs: int) -> list[float]:
    """Milliseconds from before the client sent until `finished_at`: one machine, one clock."""
    load = await asyncio.to_thread(drive, port, requests=jobs, rate=RATE)
    sent = {UUID(job_id): at for job_id, at in load.sent}
    async with stage.ledger() as conn:

        async def finished() -> dict[UUID, float]:
            found = {row[0]: row[1] for row in await conn.fetch(_FINISHED, list(sent))}
            return found if len(found) == jobs else {}

        ended = await until(finished, 10, f"{jobs} jobs finished")
    return [(ended[job_id] - at) * 1000 for job_id, at in sent.items()]


async def _idle(services: dict[str, Service]) -> list[Row]:
    await asyncio.sleep(SETTLE)
    before = {name: cpu_time(service.pid) for name, service in services.items()}
    await asyncio.sleep(SECONDS)
    shares = {name: (cpu_time(service.pid) - before[name]) / SECONDS * 100 for name, service in services.items()}
    if any(not service.running for service in services.values()):
        raise Failed("a process ended while it idled")
    return [
        Row(f"idle CPU of {name}, % of a core", f"{share:.2f}", "< 1", share < IDLE_GOAL)
        for name, share in shares.items()
    ]
