"""A worker in this process, with handlers that the test writes, on a ledger that is its own harness."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.job import FINISHED, Job
from accepted.domain.retry import Retry
from accepted.domain.transitions import RunningAttempt
from accepted.services.jobs.completion import settle
from accepted.settings import Settings
from accepted_worker.runtime.worker import Worker
from tests.support.service.in_process_worker import accept, attempts, handlers_of, read, working
from tests.support.waiting import until

PATIENCE = 30.0
MAX_RESULT = 1024
AT_ONCE = Retry(max_attempts=3, schedule=(0.0,), jitter=0.0)


class WorkerWithHandlers:
    """One worker at work, and the ledger that it works on."""

    def __init__(self, engine: AsyncEngine, broker: PostgresBroker, worker: Worker) -> None:
        self.engine, self.broker, self.worker = engine, broker, worker

    async def accept(self, type_: str, payload: Mapping[str, Any] | None = None, **fields: Any) -> UUID:
        """A job of three attempts, without waits between them."""
        given = {"max_attempts": 3, "retry": msgspec.json.encode(AT_ONCE).decode()} | fields
        return await accept(self.engine, self.broker, type_, msgspec.json.encode(payload or {}).decode(), **given)

    async def job(self, job_id: UUID) -> Job:
        return await read(self.engine, job_id)

    async def until(self, job_id: UUID, wanted: Callable[[Job], object], what: str) -> Job:
        async def there() -> Job | None:
            job = await self.job(job_id)
            return job if wanted(job) else None

        return await until(there, PATIENCE, what)

    async def finished(self, job_id: UUID) -> Job:
        return await self.until(job_id, lambda job: job.status in FINISHED, "the end of the job")

    async def finish(self, type_: str, payload: Mapping[str, Any] | None = None, **fields: Any) -> Job:
        return await self.finished(await self.accept(type_, payload, **fields))

    async def outcomes(self, job_id: UUID) -> list[str | None]:
        return [one.outcome for one in await attempts(self.engine, job_id)]

    async def rescue(self, job_id: UUID, attempt: int = 1) -> None:
        """What the rescuer does when it takes this worker for dead, though it lives."""
        running = RunningAttempt(
            job_id=job_id, attempt=attempt, worker_id=self.worker.id, max_attempts=3, crashes=0, retry=AT_ONCE
        )  # fmt: skip
        assert await settle(self.engine, self.broker, [transitions.crashed(running, 0.0)]) == [True]


@asynccontextmanager
async def worker_with_handlers(
    engine: AsyncEngine, url: str, *functions: Callable[..., Any], **more: Any
) -> AsyncIterator[WorkerWithHandlers]:
    """A worker that serves these functions, each under `@job`; `more` are settings."""
    broker = PostgresBroker(engine, url)
    settings = Settings(database_url=url, max_result_bytes=MAX_RESULT, **more)
    handlers = handlers_of(*functions)
    async with working(engine, broker, handlers=handlers, concurrency=4, lease_ttl=30, settings=settings) as worker:
        yield WorkerWithHandlers(engine, broker, worker)
