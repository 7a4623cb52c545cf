"""`python -m tests.benchmarks.scale --jobs N`: what requests cost with N finished jobs, beside an empty ledger.

Both ledgers are databases of one PostgreSQL of our own that syncs to disk. Each figure is the median of 20 requests,
with the slowest in brackets. A scheduler runs beside the API, as in production. The pruner is measured last:
beside submissions, then while nothing else runs. Exits 0 whether or not the goals are met, and 1 when it could not
measure.
"""

import argparse
import asyncio
import os
import sys
import time
from contextlib import AsyncExitStack
from uuid import UUID

import uvloop

from tests.benchmarks.client import drive
from tests.benchmarks.figures import HEADER, Failed, Row
from tests.benchmarks.scale import pruning
from tests.benchmarks.scale.filling import fill
from tests.benchmarks.scale.requests import Taken, ask, rows
from tests.benchmarks.scale.running import api, environment, scheduler, started
from tests.support.servers.postgres import PostgresServer, connect
from tests.support.service.processes import logged, run
from tests.support.waiting import until

JOBS = 10_000_000

SERVER = {"max_wal_size": "8GB", "shared_buffers": "1GB", "work_mem": "16MB"}
"""As somebody would set it who keeps so much: the rest are PostgreSQL's defaults."""

_SAMPLED = "SELECT EXISTS (SELECT FROM queue_samples WHERE queue = '')"


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS, help="finished jobs, at least 1000")
    options = parser.parse_args()
    postgres = PostgresServer(settings=SERVER)
    try:
        postgres.start()
        uvloop.run(_measure(postgres, max(options.jobs, 1000)))
    except (Failed, AssertionError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    finally:
        postgres.remove()
    print(f"\non {os.cpu_count()} cores; load average of the last minute {os.getloadavg()[0]:.1f}")
    return 0


async def _measure(postgres: PostgresServer, jobs: int) -> None:
    empty, full = _migrated(postgres, "empty"), _migrated(postgres, "full")
    start = time.monotonic()
    conn = await connect(full)
    try:
        batch = await fill(conn, jobs)
        print(f"{jobs:,} finished jobs and {jobs // 10:,} waiting, written in {time.monotonic() - start:.0f} s\n")
        _say(HEADER)
        nothing, _ = await _asked(empty, None)
        found, rate = await _asked(full, batch)
        _say(*rows(found, nothing), *await pruning.beside_submissions(full, conn))
        _say(await pruning.at_rest(full, conn, rate))
    finally:
        await conn.close()


def _migrated(postgres: PostgresServer, name: str) -> str:
    url = postgres.create_database(name)
    run("migrate", env=environment(url))
    return url


async def _asked(url: str, batch: UUID | None) -> tuple[dict[str, Taken], float]:
    """What each request takes, and submissions a second."""
    async with AsyncExitStack() as stack:
        await _register_types(url)
        port = await api(stack, url)
        await scheduler(stack, url)
        await _until_sampled(url)
        taken = await ask(port, batch)
        load = await asyncio.to_thread(drive, port, seconds=3.0, warmup=1.0)
        return taken, load.rate


async def _register_types(url: str) -> None:
    """Let a worker register its types, without taking a job."""
    async with AsyncExitStack() as stack:
        worker = started(stack, url, "worker", "--queues=nothing")
        await worker.wait_ready(logged("worker_ready"))


async def _until_sampled(url: str) -> None:
    conn = await connect(url)
    try:
        await until(lambda: conn.fetchval(_SAMPLED), 60, "the sampler has counted")
    finally:
        await conn.close()


def _say(*rows: Row) -> None:
    for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    sys.exit(main())
