"""Batches: accepted over HTTP, their members ended as workers end them, and what is known of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.retry import Retry
from accepted.domain.transitions import RunningAttempt
from accepted.services.jobs.completion import settle
from accepted_worker.scheduler import base
from accepted_worker.scheduler.batches import BatchLoop
from tests.support.clients.client import PATIENCE
from tests.support.ledger.jobs import WORKER, claim
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import rows
from tests.support.waiting import until

HOOK = "http://127.0.0.1:9/hook"
KEYS = {"id", "total", "counts", "finished", "created_at", "finished_at"}


@asynccontextmanager
async def schedulers(engine: AsyncEngine, broker: PostgresBroker, count: int = 3) -> AsyncIterator[None]:
    running = {asyncio.create_task(base.run([BatchLoop(engine, broker, PollConnection(engine))])) for _ in range(count)}
    try:
        yield
    finally:
        for one in running:
            one.cancel()
        await asyncio.wait(running)


async def accepted(http: httpx.AsyncClient, jobs: list[Any], **options: Any) -> str:
    answer = await http.post("/batches", json={"jobs": jobs, **options})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def seen(http: httpx.AsyncClient, batch: str) -> Any:
    return (await http.get(f"/batches/{batch}")).json()


async def finished(http: httpx.AsyncClient, batch: str) -> Any:
    async def there() -> Any:
        found = await seen(http, batch)
        return found if found["finished"] else None

    return await until(there, PATIENCE, "the end of the batch", interval=0.05)


async def told(engine: AsyncEngine) -> list[Any]:
    """The webhooks of batches that there are, by their age."""
    found = await rows(engine, "SELECT payload FROM jobs WHERE type = 'webhook.deliver' ORDER BY id")
    return [row["payload"] for row in found]


async def end_some(engine: AsyncEngine, broker: PostgresBroker, most: int, failed: bool = False) -> list[Any]:
    """Claim up to `most` jobs and let them end, as a worker does."""
    running = [
        RunningAttempt(
            job_id=one.job.id, attempt=one.job.attempt, worker_id=WORKER, max_attempts=1, crashes=0, retry=Retry()
        )
        for one in await claim(engine, most, queue="default")
    ]
    ends = [
        transitions.failed(one, FailureClass.INVALID, "no", 0.0) if failed else transitions.succeeded(one, "{}")
        for one in running
    ]
    assert await settle(engine, broker, ends) == [True] * len(ends)
    return [one.job_id for one in running]


async def run_times(engine: AsyncEngine) -> list[datetime]:
    """By the number in the payload: the order in which the members were given."""
    found = await rows(engine, "SELECT run_at FROM jobs ORDER BY CAST(payload->>'n' AS int)")
    return [row["run_at"] for row in found]
