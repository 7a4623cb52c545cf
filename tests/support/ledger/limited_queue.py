"""A limited queue under test: limits, jobs on it, its limiter, and a worker of its."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.ids import new_id
from accepted.domain.job import NewJob
from accepted.domain.retry import Retry
from accepted.domain.transitions import RunningAttempt
from accepted.services.jobs.completion import settle
from accepted.services.jobs.publishing import handoff
from accepted.storage import queue_tenants, queues, workers
from accepted.storage.attempts.claims import Claim, claim_next
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import submission
from accepted.storage.jobs.submission import Entry
from accepted_worker.scheduler import base
from accepted_worker.scheduler.limiter import Limiter
from tests.support.ledger.jobs import a_job
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import rows
from tests.support.waiting import until

LEASE_TTL = 30.0


async def limit(engine: AsyncEngine, queue: str = "q", **columns: Any) -> None:
    async with transaction(engine) as conn:
        await queues.change(conn, queue, columns)
        await conn.commit()


async def a_worker(
    engine: AsyncEngine,
    slots: int,
    queues_: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    tenant: str | None = None,
) -> UUID:
    """A worker that lives, by its row alone."""
    worker_id = new_id()
    async with transaction(engine) as conn:
        await workers.heartbeat(conn, worker_id, "w", slots=slots, queues=queues_, types=types, tenant=tenant)
        await conn.commit()
    return worker_id


async def put(engine: AsyncEngine, broker: Broker, count: int = 1, **fields: Any) -> list[UUID]:
    """Accept jobs in one transaction; what is not held is the relay's."""
    jobs: list[NewJob] = [a_job(**({"queue": "q"} | fields)) for _ in range(count)]
    async with transaction(engine) as conn:
        await submission.insert(conn, [Entry(job, handoff=handoff(broker, publishes=False)) for job in jobs], 60)
        await queue_tenants.announce(conn, queue_tenants.pairs_of(jobs))
        await conn.commit()
    return [job.id for job in jobs]


async def admitted(engine: AsyncEngine) -> list[UUID]:
    """In the order in which the harness brings them, where the ledger is the broker."""
    found = await rows(engine, "SELECT job_id FROM outbox WHERE admitted ORDER BY priority DESC, due_at")
    return [row["job_id"] for row in found]


async def counted(engine: AsyncEngine, condition: str) -> int:
    (row,) = await rows(engine, f"SELECT count(*) n FROM outbox WHERE {condition}")
    return int(row["n"])


def a_limiter(engine: AsyncEngine, broker: Broker, url: str) -> Limiter:
    return Limiter(engine, broker, url, LEASE_TTL, PollConnection(engine))


class Queue:
    """The limiter of one ledger, and a worker of its."""

    def __init__(self, engine: AsyncEngine, broker: PostgresBroker, url: str) -> None:
        self.engine, self.broker, self.limiter = engine, broker, a_limiter(engine, broker, url)

    async def put(self, count: int = 1, **fields: object) -> list[UUID]:
        return await put(self.engine, self.broker, count, **fields)

    async def admit(self) -> list[UUID]:
        """One round; what is admitted after it."""
        await self.limiter.run_once()
        return await admitted(self.engine)

    async def claim(self, worker: UUID, most: int = 100) -> list[Claim]:
        async with transaction(self.engine) as conn:
            claims = await claim_next(conn, worker, ["q"], most)
            await conn.commit()
        return claims

    async def finish(self, claims: Sequence[Claim], wait: float | None = None) -> None:
        for claim in claims:
            running = RunningAttempt(
                job_id=claim.job.id, attempt=claim.job.attempt, worker_id=claim.worker_id, max_attempts=5,
                crashes=0, retry=Retry(schedule=(0.0,), jitter=0.0),
            )  # fmt: skip
            end = transitions.succeeded(running, "{}") if wait is None else transitions.handed_back(running)
            assert await settle(self.engine, self.broker, [end]) == [True]

    async def one_by_one(self, worker: UUID, count: int) -> list[UUID]:
        """In which order a worker with one slot gets the next `count` jobs."""
        order = []
        for _ in range(count):
            assert len(await self.admit()) == 1
            (claimed,) = await self.claim(worker)
            assert await self.admit() == []
            order.append(claimed.job.id)
            await self.finish([claimed])
        return order


@asynccontextmanager
async def limiting(engine: AsyncEngine, broker: Broker, url: str, count: int = 1) -> AsyncIterator[None]:
    """So many limiters beside each other, as so many schedulers have them."""
    limiters = [a_limiter(engine, broker, url) for _ in range(count)]
    running = asyncio.create_task(base.run(limiters))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


async def all_finished(engine: AsyncEngine, count: int, timeout: float) -> None:
    async def done() -> bool:
        (row,) = await rows(engine, "SELECT count(*) n FROM jobs WHERE status = 'succeeded'")
        return int(row["n"]) >= count

    async def state() -> str:
        return str(await rows(engine, "SELECT status, count(*) FROM jobs GROUP BY 1"))

    try:
        await until(done, timeout, f"{count} jobs to succeed", interval=0.1)
    except AssertionError as error:
        raise AssertionError(f"{error}: {await state()}") from None


async def most_at_once(engine: AsyncEngine, of: str = "true") -> int:
    """How many attempts were open at the same time, of those jobs `j` that `of` selects."""
    attempts = f"(SELECT t.* FROM attempts t JOIN jobs j ON j.id = t.job_id WHERE {of})"
    (row,) = await rows(
        engine,
        f"""SELECT max((SELECT count(*) FROM {attempts} AS b WHERE b.started_at <= a.started_at
            AND (b.finished_at IS NULL OR b.finished_at > a.started_at))) n FROM {attempts} AS a""",
    )
    return int(row["n"])


async def starts(engine: AsyncEngine) -> list[float]:
    """When each job began, in seconds after the first."""
    found = await rows(engine, "SELECT EXTRACT(epoch FROM started_at) AS at FROM jobs ORDER BY started_at")
    return [float(row["at"] - found[0]["at"]) for row in found if row["at"] is not None]
