"""Jobs in the ledger, made, claimed and ended by the service's own statements."""

from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.ids import new_id
from accepted.domain.job import WEBHOOK_QUEUE, NewJob
from accepted.domain.retry import Retry
from accepted.domain.transitions import RunningAttempt, Transition
from accepted.services import admission
from accepted.services.jobs.completion import settle
from accepted.storage import limiter
from accepted.storage.attempts.claims import Claim, claim_next
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import submission
from accepted.storage.jobs.submission import Accepted, Entry
from accepted.storage.room import Room
from tests.support.ledger.sql import rows

DAY = 86400.0
WORKER = UUID(int=0xA)


def a_job(**fields: Any) -> NewJob:
    given = {"id": new_id(), "tenant": "t", "type": "noop", "queue": "q", "payload": "{}", "max_attempts": 3}
    return NewJob(**(given | fields))


async def insert(engine: AsyncEngine, *entries: Entry, ttl: float = DAY) -> dict[UUID, Accepted]:
    async with transaction(engine) as conn:
        accepted = await submission.insert(conn, list(entries), ttl)
        await conn.commit()
    return accepted


async def put(engine: AsyncEngine, count: int = 1, **fields: Any) -> list[UUID]:
    """Jobs that are on the harness already, where the ledger is the broker."""
    entries = [Entry(a_job(**fields)) for _ in range(count)]
    return list(await insert(engine, *entries))


async def claim(engine: AsyncEngine, most: int = 100, worker: UUID = WORKER, queue: str = "q") -> list[Claim]:
    """Claim ready jobs; of deliveries, those that the limiter admits now."""
    async with transaction(engine) as conn:
        if queue == WEBHOOK_QUEUE and (locked := await limiter.lock(conn, queue)) is not None:
            anybody = Room(free=most, leases=0, admitted=0, covered=0, wanted=0, only_wanted=0, run=None)
            await admission.serve(conn, queue, most, locked, anybody, hold=None, lease_ttl=30.0)
        claims = await claim_next(conn, worker, [queue], most)
        await conn.commit()
    return claims


async def the_job(engine: AsyncEngine, id: UUID) -> Any:
    (row,) = await rows(engine, "SELECT * FROM jobs WHERE id = :id", id=id)
    return row


def running_attempt(claimed: Claim) -> RunningAttempt:
    return RunningAttempt(
        job_id=claimed.job.id, attempt=claimed.job.attempt, worker_id=claimed.worker_id,
        max_attempts=claimed.job.max_attempts, crashes=claimed.crashes, retry=Retry(schedule=(60.0,), jitter=0.0),
    )  # fmt: skip


async def apply(engine: AsyncEngine, *batch: Transition) -> list[bool]:
    return await settle(engine, PostgresBroker(engine, ""), list(batch))
