"""Row 3: jobs a second of one worker process with a backlog on RabbitMQ, against aio-pika's own consume-and-ack.

Ours is clocked by the ledger, from the first claim to the last outcome; the bare loop from its first delivery to
its last ack. Both are fresh processes, and both start with all of their messages on the broker.
"""

import asyncio
import subprocess
import sys

from tests.benchmarks import bare_consumer
from tests.benchmarks.client import drive
from tests.benchmarks.figures import Failed, Round, Row, compared
from tests.benchmarks.stage import Stage
from tests.support.waiting import until

JOBS = 12_000
CONCURRENCY = 400  # of the worker, and the prefetch of both
WITHIN = 60.0  # seconds

_UNFINISHED = """
SELECT EXISTS (SELECT FROM outbox WHERE queue = $1)
    OR EXISTS (SELECT FROM attempts WHERE finished_at IS NULL)
"""

_SPAN = """
SELECT count(*) FILTER (WHERE status = 'succeeded') AS done,
       EXTRACT(epoch FROM max(finished_at) - min(started_at))::float8 AS seconds
FROM jobs WHERE queue = $1
"""


async def drained(stage: Stage, rounds: int) -> list[Row]:
    """Jobs a second until all are `succeeded` in the ledger."""
    found = [await _round(stage, f"drain-{number}") for number in range(rounds)]
    return compared("jobs/s of one worker : bare aio-pika consume and ack", found, 0.5)


async def _round(stage: Stage, queue: str) -> Round:
    await _fill(stage, queue)
    await bare_consumer.fill(stage.broker_url, f"bare-{queue}", JOBS)
    reference = await asyncio.to_thread(_bare, stage.broker_url, f"bare-{queue}")
    ours = await _drain(stage, queue)
    await stage.sweep(queue)
    return Round(ours, reference)


async def _fill(stage: Stage, queue: str) -> None:
    async with stage.api() as (_, port), stage.part("scheduler"):
        await asyncio.to_thread(drive, port, requests=JOBS, queue=queue)
        await stage.until_published()
        await stage.on_the_broker(queue, JOBS)


async def _drain(stage: Stage, queue: str) -> float:
    async with (
        stage.ledger() as conn,
        stage.part("worker", f"--queues={queue}", f"--concurrency={CONCURRENCY}"),
    ):

        async def finished() -> bool:
            return not await conn.fetchval(_UNFINISHED, queue)

        await until(finished, WITHIN, f"{JOBS} jobs drained", interval=0.2)
        done, seconds = await conn.fetchrow(_SPAN, queue)
    if done != JOBS:
        raise Failed(f"{done} of {JOBS} jobs succeeded")
    return JOBS / float(seconds)


def _bare(url: str, queue: str) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.bare_consumer", url, queue, str(JOBS), str(CONCURRENCY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN)
    if done.returncode:
        raise Failed(f"the bare consumer: {done.stderr.strip()[-500:]}")
    return JOBS / float(done.stdout)
