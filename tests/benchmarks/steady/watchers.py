"""Thousands of clients that wait for a job each, half of them by `?wait=`, half of them by `/events`.

All wait at one API process. A worker then runs the jobs, `RATE` a second. How late a client hears of its end is counted
from `finished_at`, which the transaction that ends the job takes as it begins, to the moment when the client has read
it: one machine, one clock. What the clients cost the ledger while they only wait is the difference between its
transactions a second with and without them.
"""

import asyncio
import json
import sys
from typing import Any

import asyncpg
import httpx
import psutil

from tests.benchmarks.client import drive
from tests.benchmarks.figures import Failed, Row, percentile
from tests.benchmarks.stage import Stage
from tests.support.service.processes import ROOT

QUEUE = "watched"
RATE = 50  # jobs a second, each with two clients
WATCHED_FOR = 20.0
"""Seconds for which the statements of the ledger are counted: less than a client waits."""

SETTLE = 5.0  # seconds after which nobody works any more

WITHIN = 300.0  # seconds, for one process of clients
GOAL = 100.0  # milliseconds
SAME = 2.0
"""Statements a second that two counts without any difference may differ by: the scheduler's loops."""

_STATEMENTS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"


async def measured(stage: Stage, clients: int) -> list[Row]:
    """`clients` of each kind. api, scheduler, and a worker with its default slots, on RabbitMQ."""
    async with stage.api() as (api, port), stage.part("scheduler"), stage.ledger() as conn:
        await _limit(port)
        await asyncio.to_thread(drive, port, requests=clients, queue=QUEUE)
        ids = [str(row[0]) for row in await conn.fetch("SELECT id FROM jobs WHERE queue = $1", QUEUE)]
        alone, before = await _statements(conn), psutil.Process(api.pid).memory_info().rss
        polls, streams = await asyncio.gather(_start(port, "wait", ids), _start(port, "events", ids))
        memory = (psutil.Process(api.pid).memory_info().rss - before) / (2 * clients)
        watched = await _statements(conn)
        async with stage.part("worker", f"--queues={QUEUE}"):
            told = await asyncio.gather(_told(polls), _told(streams))
    await stage.sweep(QUEUE)
    return [
        *(_row(f"ms until {clients:,} clients of {name} are told", taken)
          for name, taken in zip(("`?wait=`", "`/events`"), told, strict=True)),
        Row(
            f"transactions/s of the ledger while {2 * clients:,} clients wait : while none do",
            f"{watched:.1f} : {alone:.1f}", f"+ {SAME:g}", watched <= alone + SAME,
        ),
        Row("memory of the API for each client", f"{memory / 1024:.0f} KiB"),
    ]  # fmt: skip


def _row(name: str, taken: list[float]) -> Row:
    p50, p99, most = percentile(taken, 0.5), percentile(taken, 0.99), max(taken)
    return Row(name, f"p50 {p50:.0f}, p99 {p99:.0f}, max {most:.0f}", f"<= {GOAL:g}", most <= GOAL)


async def _limit(port: int) -> None:
    limits = {"rate_limit": {"jobs": RATE, "per": 1}}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        (await client.patch(f"/queues/{QUEUE}", json=limits)).raise_for_status()


async def _statements(conn: "asyncpg.Connection[Any]") -> float:
    """Transactions a second; a process reports what it did once a second at most."""
    await asyncio.sleep(SETTLE)
    before = await conn.fetchval(_STATEMENTS)
    await asyncio.sleep(WATCHED_FOR)
    return float(await conn.fetchval(_STATEMENTS) - before) / WATCHED_FOR


async def _start(port: int, kind: str, ids: list[str]) -> asyncio.subprocess.Process:
    """A process of clients, all of which wait."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.steady.waiting_clients", str(port), kind,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, limit=2**26,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n".join(ids).encode())
    process.stdin.close()
    async with asyncio.timeout(WITHIN):
        if await process.stdout.readline() != b"waiting\n":
            raise Failed(f"the clients of {kind} did not come to wait")
    return process


async def _told(process: asyncio.subprocess.Process) -> list[float]:
    assert process.stdout is not None
    async with asyncio.timeout(WITHIN):
        taken: list[float] = json.loads(await process.stdout.readline())
    await process.wait()
    return taken
