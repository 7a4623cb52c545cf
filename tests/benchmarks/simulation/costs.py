"""What a batch, and a job in it, cost PostgreSQL: the CPU time of a server process that runs the statements alone."""

import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

from accepted.domain import transitions
from accepted.domain.ids import new_id
from accepted.domain.job import NewJob
from accepted.storage.attempts import claims, completion
from accepted.storage.attempts.claims import Claim
from accepted.storage.db.engine import create_engine
from accepted.storage.db.statements import Connection, Direct
from accepted.storage.jobs import submission
from accepted.storage.jobs.submission import Entry
from accepted_worker.runtime.executor import running_attempt
from tests.benchmarks.simulation.service import Cost
from tests.benchmarks.stage import cpu_time

SMALL, LARGE = 10, 150
JOBS = 6000  # of each size
FLUSHES = 300


class LedgerCosts(NamedTuple):
    """CPU time of each statement, bytes of WAL for a job, and seconds for a flush."""

    submission: Cost
    claim: Cost
    outcome: Cost
    wal: float
    flush: float


async def measured(url: str) -> LedgerCosts:
    """On an empty ledger, which is left with finished jobs."""
    engine = create_engine(url)
    ledger = Direct(engine)
    async with ledger.statements() as conn:
        steps = [await _steps(conn, size) for size in (SMALL, LARGE)]
        wal = steps[1][3]
        costs = [_cost(small, large) for small, large in zip(*(each[:3] for each in steps), strict=True)]
        flush = await _flush(conn)
    await ledger.close()
    await engine.dispose()
    return LedgerCosts(*costs, wal, flush)


def _cost(small: float, large: float) -> Cost:
    job = max(large - small, 0.0) / (LARGE - SMALL)
    return Cost(max(small - job * SMALL, 0.0), job)


async def _steps(conn: Any, size: int) -> tuple[float, float, float, float]:
    """Seconds of CPU for a submission, a claim and an outcome of so many jobs, and bytes of WAL for a job."""
    batches = [[_job() for _ in range(size)] for _ in range(JOBS // size)]
    claimed: list[list[Claim]] = []
    worker = new_id()

    async def submit(jobs: list[NewJob]) -> None:
        await submission.insert(conn, [Entry(job) for job in jobs], 3600)

    async def claim(jobs: list[NewJob]) -> None:
        claimed.append(await claims.claim_refs(conn, worker, [(job.id, 0) for job in jobs], ["noop"]))

    async def end(some: list[Claim]) -> None:
        ends = [transitions.succeeded(running_attempt(one, None), "{}") for one in some]
        await completion.apply(conn, ends, only_alone=True)

    before = await _position(conn)
    cpu = [await _cpu(conn, submit, batches), await _cpu(conn, claim, batches), await _cpu(conn, end, claimed)]
    return cpu[0], cpu[1], cpu[2], (await _position(conn) - before) / JOBS


async def _cpu(conn: Any, run: Callable[[Any], Awaitable[None]], batches: list[Any]) -> float:
    before = cpu_time(conn.get_server_pid())
    for batch in batches:
        await run(batch)
    return (cpu_time(conn.get_server_pid()) - before) / len(batches)


async def _flush(conn: Any) -> float:
    """The median of a commit that writes next to nothing."""
    took = []
    for _ in range(FLUSHES):
        started = time.perf_counter()
        await conn.execute("SELECT pg_logical_emit_message(true, 'flush', '')")
        took.append(time.perf_counter() - started)
    return statistics.median(took)


async def _position(conn: Connection) -> int:
    return int(await conn.fetchval("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"))  # type: ignore[union-attr]


def _job() -> NewJob:
    id: UUID = new_id()
    return NewJob(id=id, tenant="t", type="noop", queue="q", payload="{}", max_attempts=5)
