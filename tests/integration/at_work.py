"""A worker in this process, with handlers that the test writes, on a ledger that is its own road."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from app.broker.postgres import PostgresBroker
from app.domain import transitions
from app.domain.addresses import EgressAllow
from app.domain.ids import new_id
from app.domain.job import FINISHED, Job
from app.domain.retry import Retry
from app.domain.transitions import Held
from app.services.completion import settle
from app.services.submission import Submission, Submissions
from app.settings import Settings
from app.storage.engine import transaction
from app.storage.reading import attempts_of, jobs_by_id
from tests.integration.test_ledger_submission import a_job
from tests.support.waiting import until
from workers.egress import Egress
from workers.executor import Executor
from workers.job import MARK, Handler
from workers.tools import Tools
from workers.worker import Worker

PATIENCE = 30.0
MAX_RESULT = 1000


class Shop:
    """One worker at work, and the ledger that it works on."""

    def __init__(self, engine: AsyncEngine, url: str, handlers: dict[str, Handler], **more: Any) -> None:
        self.engine = engine
        self.broker = PostgresBroker(engine, url)
        settings = Settings(database_url=url, max_result_bytes=MAX_RESULT, **more)
        self.tools = Tools(engine, Egress(EgressAllow()), settings, threads=4)
        self.worker = Worker(
            engine, self.broker, handlers, Executor(handlers, self.tools, 4, MAX_RESULT),
            queue_names=["q"], concurrency=4, lease_ttl=30, shutdown_grace=3, ack_within=600,
        )  # fmt: skip

    async def accept(self, type_: str, payload: Mapping[str, Any] | None = None, **fields: Any) -> UUID:
        text = msgspec.json.encode(payload or {}).decode()
        retry = msgspec.json.encode(Retry(max_attempts=3, schedule=(0.0,), jitter=0.0)).decode()
        new = a_job(id=new_id(), type=type_, payload=text, retry=retry, **fields)
        submissions = Submissions(self.engine, self.broker, 60)
        await submissions.accept(Submission(new))
        await submissions.close()
        return new.id

    async def job(self, job_id: UUID) -> Job:
        async with transaction(self.engine) as conn:
            return (await jobs_by_id(conn, [job_id]))[job_id]

    async def until(self, job_id: UUID, wanted: Callable[[Job], object], what: str) -> Job:
        async def there() -> Job | None:
            job = await self.job(job_id)
            return job if wanted(job) else None

        return await until(there, PATIENCE, what)

    async def finished(self, job_id: UUID) -> Job:
        """The job at its end. What waits for a retry is due at once here: nobody relays it, so we do."""

        async def there() -> Job | None:
            job = await self.job(job_id)
            if job.status in ("queued", "retrying"):
                await self.publish()
            return job if job.status in FINISHED else None

        return await until(there, PATIENCE, "the end of the job")

    async def publish(self) -> None:
        """What the relay does: everything that is due is on the road."""
        async with transaction(self.engine) as conn:
            await conn.exec_driver_sql("UPDATE outbox SET published = true, due_at = now() WHERE due_at <= now()")
            await conn.exec_driver_sql("UPDATE jobs SET status = 'queued' WHERE status = 'retrying'")
            await conn.commit()

    async def finish(self, type_: str, payload: Mapping[str, Any] | None = None, **fields: Any) -> Job:
        return await self.finished(await self.accept(type_, payload, **fields))

    async def outcomes(self, job_id: UUID) -> list[str | None]:
        async with transaction(self.engine) as conn:
            return [one.outcome for one in await attempts_of(conn, [job_id])]

    async def rescue(self, job_id: UUID, attempt: int = 1) -> None:
        """What the rescuer does when it takes this worker for dead, though it lives."""
        held = Held(
            job_id=job_id, attempt=attempt, worker_id=self.worker.id, max_attempts=3, crashes=0,
            retry=Retry(schedule=(0.0,), jitter=0.0),
        )  # fmt: skip
        assert await settle(self.engine, self.broker, [transitions.crashed(held, 0.0)]) == [True]


@asynccontextmanager
async def at_work(engine: AsyncEngine, url: str, *functions: Callable[..., Any], **more: Any) -> AsyncIterator[Shop]:
    """A worker that serves these functions, each under `@job`; `more` are settings."""
    handlers: list[Handler] = [function.__dict__[MARK] for function in functions]
    shop = Shop(engine, url, {handler.type.name: handler for handler in handlers}, **more)
    running = asyncio.create_task(shop.worker.run())
    try:
        yield shop
    finally:
        shop.worker.stop()
        await running
        await shop.tools.aclose()
