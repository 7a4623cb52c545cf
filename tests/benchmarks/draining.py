"""Row 3: jobs a second of one worker process with a backlog on RabbitMQ, against aio-pika's own consume-and-ack.

First with the slots that a worker has by default, then with more; the bare loop prefetches as many. Ours is clocked by
the ledger, from the first claim to the last outcome; the bare loop from its first delivery to its last ack. Both are
fresh processes, and both start with all of their messages on the broker. CPU is that of the worker from the moment it
is ready, and that of the bare process in its loop.
"""

import asyncio
import subprocess
import sys
from typing import NamedTuple

from tests.benchmarks import bare_consumer
from tests.benchmarks.client import drive
from tests.benchmarks.figures import Failed, Round, Row, compared
from tests.benchmarks.stage import Stage, cpu_time
from tests.support.waiting import until

JOBS = 12_000
GOALS = {10: 0.7, 100: 0.85}
"""By the number of slots. 10 is the default."""

CPU_GOAL = 2.5
WITHIN = 60.0  # seconds

UNFINISHED = """
SELECT EXISTS (SELECT FROM outbox WHERE queue = $1)
    OR EXISTS (SELECT FROM attempts WHERE finished_at IS NULL)
"""

BEGUN = "SELECT count(*) FROM jobs WHERE queue = $1 AND status <> 'queued'"

SPAN = """
SELECT count(*) FILTER (WHERE status = 'succeeded') AS done,
       EXTRACT(epoch FROM max(finished_at) - min(started_at))::float8 AS seconds
FROM jobs WHERE queue = $1
"""


class Drained(NamedTuple):
    """Jobs or messages a second, and microseconds of CPU for each."""

    rate: float
    cpu: float


async def drained(stage: Stage, rounds: int) -> list[Row]:
    """Until all jobs are `succeeded` in the ledger."""
    rows = []
    for slots, goal in GOALS.items():
        found = [await _round(stage, f"drain-{slots}-{number}", slots) for number in range(rounds)]
        rates = [Round(ours.rate, bare.rate) for ours, bare in found]
        cpu = [Round(ours.cpu, bare.cpu) for ours, bare in found]
        rows += compared(f"jobs/s of one worker, {slots} slots : bare aio-pika", rates, goal)
        rows += compared("its CPU a job : bare, a message", cpu, CPU_GOAL, unit=" us", less_is_better=True)
    return rows


async def _round(stage: Stage, queue: str, slots: int) -> tuple[Drained, Drained]:
    await _fill(stage, queue)
    await bare_consumer.fill(stage.broker_url, f"bare-{queue}", JOBS)
    bare = await asyncio.to_thread(_bare, stage.broker_url, f"bare-{queue}", slots)
    ours = await _drain(stage, queue, slots)
    await stage.sweep(queue)
    return ours, bare


async def _fill(stage: Stage, queue: str) -> None:
    async with stage.api() as (_, port), stage.part("scheduler"):
        await asyncio.to_thread(drive, port, requests=JOBS, queue=queue)
        await stage.until_published()
        await stage.on_the_broker(queue, JOBS)


async def _drain(stage: Stage, queue: str, slots: int) -> Drained:
    async with (
        stage.ledger() as conn,
        stage.part("worker", f"--queues={queue}", f"--concurrency={slots}") as worker,
    ):
        before, begun = cpu_time(worker.pid), await conn.fetchval(BEGUN, queue)

        async def finished() -> bool:
            return not await conn.fetchval(UNFINISHED, queue)

        await until(finished, WITHIN, f"{JOBS} jobs drained", interval=0.2)
        cpu = cpu_time(worker.pid) - before
        done, seconds = await conn.fetchrow(SPAN, queue)
    if done != JOBS:
        raise Failed(f"{done} of {JOBS} jobs succeeded")
    return Drained(JOBS / float(seconds), cpu / (JOBS - begun) * 1e6)


def _bare(url: str, queue: str, prefetch: int) -> Drained:
    command = [sys.executable, "-m", "tests.benchmarks.bare_consumer", url, queue, str(JOBS), str(prefetch)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN)
    if done.returncode:
        raise Failed(f"the bare consumer: {done.stderr.strip()[-500:]}")
    seconds, cpu = map(float, done.stdout.split())
    return Drained(JOBS / seconds, cpu / JOBS * 1e6)
