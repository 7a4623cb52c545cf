"""A worker in the test's own process, on the ledger alone or on a broker, and what its jobs come to."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.ids import new_id
from accepted.domain.job import Job, NewJob
from accepted.domain.network.addresses import EgressAllow
from accepted.handler import MARK, Handler
from accepted.services.jobs.submission import Submission, Submissions
from accepted.services.monitoring.statistics import Measurements
from accepted.settings import Settings
from accepted.storage import job_types
from accepted.storage.db.engine import transaction
from accepted.storage.jobs.reading import Attempt, attempts_of, jobs_by_id
from accepted_worker.attempt import registry
from accepted_worker.attempt.records import LedgerRecords
from accepted_worker.attempt.tools import Tools
from accepted_worker.outbound.egress import Egress
from accepted_worker.outbound.mail import Mail
from accepted_worker.process_pool.messages import Setup
from accepted_worker.process_pool.pool import ProcessPool
from accepted_worker.runtime.executor import Executor
from accepted_worker.runtime.suspects import Suspects
from accepted_worker.runtime.worker import Worker
from accepted_worker.scheduler import base
from accepted_worker.scheduler.limiter import Limiter
from accepted_worker.scheduler.relay import Relay
from accepted_worker.scheduler.transactions import TransactionalSubmissions
from tests.support.ledger.poll_connection import PollConnection
from tests.support.service.processes import BYTECODE

# A child that may not keep its bytecode compiles all that it imports: 3 s of CPU instead of 1.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(BYTECODE))

HANDLERS = registry.load([registry.BUILT_IN, registry.SLEEP])
NOWHERE = Settings(database_url="postgresql://unused")
MODULES = (
    registry.BUILT_IN,
    registry.SLEEP,
    "tests.support.handlers.process_handlers",
    "tests.support.handlers.process_tools",
    "tests.support.handlers.suspicious",
    "tests.support.handlers.talking",
)
LOADED = registry.load(MODULES)
SETUP = Setup(MODULES, "", None, None, 1000, 10_000)


def handlers_of(*functions: Callable[..., Any]) -> dict[str, Handler]:
    """The handlers that `@job` made of these functions."""
    found: list[Handler] = [function.__dict__[MARK] for function in functions]
    return {handler.type.name: handler for handler in found}


class PollingLimiter:
    """The limiter without its notifications, which need the URL of the ledger."""

    name = "limiter"

    def __init__(self, limiter: Limiter) -> None:
        self.run_once = limiter.run_once

    def pause(self, done: int) -> float:
        return 0.05


@asynccontextmanager
async def working(
    engine: AsyncEngine,
    broker: Broker,
    queue: str | None = "q",
    *,
    handlers: dict[str, Handler] = HANDLERS,
    concurrency: int = 2,
    lease_ttl: float = 3,
    shutdown_grace: float = 3,
    ack_within: float = 600,
    settings: Settings = NOWHERE,
    egress: Egress | None = None,
    database_url: str = "",
) -> AsyncIterator[Worker]:
    """A worker of `queue` with a relay and a limiter beside it, stopped at the end. `settings` are those of its tools.

    Without a queue it serves all there are, and needs `database_url` to hear of new ones, and of jobs that somebody
    else's transaction submits. Suspects of types that no
    child can load, because a test has made them, run beside the others.
    """
    tools = Tools(
        LedgerRecords(engine, settings),
        egress or Egress(EgressAllow()),
        Mail(None, None),
        settings,
        threads=concurrency,
    )
    pool = ProcessPool(SETUP)
    executor = Executor(handlers, tools, concurrency, settings.max_result_bytes, pool)
    loadable = {name: handler for name, handler in handlers.items() if LOADED.get(name) is handler}
    suspects = Suspects(loadable, executor, SETUP, settings)
    one = Worker(
        engine, broker, handlers, executor, suspects, queue_names=[queue] if queue else [], concurrency=concurrency,
        lease_ttl=lease_ttl, shutdown_grace=shutdown_grace, ack_within=ack_within,
        blocked_limit=None, database_url=database_url,
    )  # fmt: skip
    running = asyncio.create_task(one.run())
    polls = PollConnection(engine)
    relay = Relay(engine, broker, polls)
    loops: list[base.Loop] = [relay, PollingLimiter(Limiter(engine, broker, "", lease_ttl, polls))]
    if database_url:
        loops.append(TransactionalSubmissions(engine, database_url, Measurements(), relay.wake))
    relaying = asyncio.create_task(base.run(loops))
    try:
        yield one
    finally:
        one.stop()
        relaying.cancel()
        await asyncio.wait({relaying})
        await running
        await tools.aclose()
        await suspects.aclose()
        await pool.aclose()


async def registered(engine: AsyncEngine) -> None:
    """The ledger knows the types of `HANDLERS`, as after the start of a worker."""
    async with transaction(engine) as conn:
        await job_types.register(conn, [handler.type for handler in HANDLERS.values()])
        await conn.commit()


async def accept(engine: AsyncEngine, broker: Broker, type_: str, payload: str = "{}", **fields: Any) -> UUID:
    given = {"id": new_id(), "tenant": "t", "type": type_, "queue": "q", "payload": payload, "max_attempts": 5}
    new = NewJob(**(given | fields))
    submissions = Submissions(engine, broker, 60)
    await submissions.accept(Submission(new))
    await submissions.close()
    return new.id


async def read(engine: AsyncEngine, job_id: UUID) -> Job:
    async with transaction(engine) as conn:
        return (await jobs_by_id(conn, [job_id]))[job_id]


async def attempts(engine: AsyncEngine, job_id: UUID) -> list[Attempt]:
    async with transaction(engine) as conn:
        return await attempts_of(conn, [job_id])


def has(engine: AsyncEngine, job_id: UUID, *statuses: str) -> Callable[[], Any]:
    async def check() -> Job | None:
        job = await read(engine, job_id)
        return job if job.status in statuses else None

    return check
