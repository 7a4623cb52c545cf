"""Webhooks a second to a receiver that answers at once, and how late they come while another one never answers.

A second receiver, on a host of its own, gets a tenth as many. In every other turn it accepts the connection and says
nothing; in the others it answers, so that both do the same work. How late a webhook comes is counted from
`finished_at`, which is in its body, to its arrival.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from tests.benchmarks.client import drive
from tests.benchmarks.figures import Failed, Round, Row, compared, percentile
from tests.benchmarks.stage import Stage
from tests.support.service.processes import ROOT
from tests.support.waiting import until

BURST = 5_000
"""Webhooks by which the rate is measured."""

RATE_GOAL = 1000.0
RATE = 300.0
"""Webhooks a second while one receiver is stuck, unless that is more than `SHARE` of what was measured."""

SHARE = 0.6
OTHERS = 0.1  # to the second receiver, for each to the first
SECONDS = 20.0
ROUNDS = 2
P99_GOAL = 2.0
WITHIN = 180.0  # seconds
TIMEOUT = 17.0
"""Seconds after which a delivery to the stuck receiver has ended."""


class Receivers:
    """The process of the receivers, by its port."""

    def __init__(self, port: int) -> None:
        self.fast = f"http://127.0.0.2:{port}/fast"
        self.other = f"http://127.0.0.3:{port}/other"
        self.stuck = f"http://127.0.0.3:{port}/stuck"
        self._taken: list[float] = []

    async def taken(self, count: int) -> list[float]:
        """How late the next `count` webhooks came to the fast receiver, in milliseconds."""
        await until(lambda: self._enough(count), WITHIN, lambda: f"{count} webhooks; {len(self._taken)} came")
        found, self._taken = self._taken, []
        return found

    async def _enough(self, count: int) -> bool:
        async with httpx.AsyncClient(trust_env=False) as client:
            self._taken += (await client.get(self.fast)).json()
        return len(self._taken) >= count


async def measured(stage: Stage) -> list[Row]:
    """api, scheduler, and a worker with its default slots, on RabbitMQ."""
    with stage.settings(EGRESS_ALLOW="127.0.0.0/8"):
        async with (
            _receivers() as receivers,
            stage.api() as (_, port),
            stage.part("scheduler"),
            stage.part("worker"),
        ):
            reached = await _burst(port, receivers)
            rate = min(RATE, SHARE * reached)
            found = [await _round(stage, port, receivers, rate) for _ in range(ROUNDS)]
    await stage.sweep()
    name = f"p99 from the end of a job to its webhook at {rate:.0f}/s, a receiver is stuck : none is"
    return [
        Row(
            "webhooks/s to one receiver, with their jobs", f"{reached:,.0f}", f">= {RATE_GOAL:g}", reached >= RATE_GOAL
        ),
        *compared(name, found, P99_GOAL, unit=" ms", less_is_better=True),
    ]


@asynccontextmanager
async def _receivers() -> AsyncIterator[Receivers]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.steady.receivers", stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        if not line:
            raise Failed("the receivers did not start")
        yield Receivers(int(line))
    finally:
        process.terminate()
        await process.wait()


async def _burst(port: int, receivers: Receivers) -> float:
    """Webhooks a second, from the first submission to the last webhook."""
    start = time.monotonic()
    await asyncio.to_thread(drive, port, requests=BURST, callback=receivers.fast)
    await receivers.taken(BURST)
    return BURST / (time.monotonic() - start)


async def _round(stage: Stage, port: int, receivers: Receivers, rate: float) -> Round:
    calm = await _p99(port, receivers, rate, receivers.other)
    stuck = await _p99(port, receivers, rate, receivers.stuck)
    await stage.forget()
    await asyncio.sleep(TIMEOUT)
    return Round(stuck, calm)


async def _p99(port: int, receivers: Receivers, rate: float, other: str) -> float:
    jobs = int(rate * SECONDS)
    others = int(jobs * OTHERS)
    await asyncio.gather(
        asyncio.to_thread(drive, port, requests=jobs, rate=rate, callback=receivers.fast),
        asyncio.to_thread(drive, port, requests=others, rate=rate * OTHERS, callback=other),
    )
    return percentile(await receivers.taken(jobs), 0.99)
