"""Jobs that ended badly, made quickly: by the statements that end jobs, not by writing what they would write."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.job import Job
from accepted.storage.db.engine import transaction
from accepted.storage.jobs.reading import jobs_by_id
from tests.support.ledger.jobs import apply, claim, put, running_attempt
from tests.support.ledger.sql import do


async def fail(
    engine: AsyncEngine, count: int = 1, kind: FailureClass = FailureClass.INVALID, message: str = "no", **fields: Any
) -> list[UUID]:
    """Jobs that were run and failed for good, in the order of their ids."""
    queue = fields.get("queue", "q")
    ids = await put(engine, count, **fields)
    while claims := await claim(engine, 500, queue=queue):
        await apply(engine, *(transitions.failed(running_attempt(each), kind, message, 0.0) for each in claims))
    return sorted(ids)


async def run_again(engine: AsyncEngine, kind: FailureClass = FailureClass.INVALID) -> int:
    """Run whatever waits now, and let it fail. Returns how many ran."""
    await do(engine, "UPDATE outbox SET published = true WHERE due_at <= now()")
    claims = await claim(engine, 500)
    await apply(engine, *(transitions.failed(running_attempt(each), kind, "again", 0.0) for each in claims))
    return len(claims)


async def ended_as(engine: AsyncEngine, status: str, **fields: Any) -> UUID:
    """A job that ended as `status` after one attempt; failed ones with their letter."""
    if status == "failed":
        return (await fail(engine, **fields))[0]
    (id,) = await put(engine, **fields)
    await do(engine, "DELETE FROM outbox WHERE job_id = :id", id=id)
    await do(
        engine,
        """UPDATE jobs SET status = :status, attempt = 1, finished_at = now(), crashes = 2, result = '1',
           error = '{"class": "cancelled", "message": "x", "attempt": 1}', progress = '{"percent": 3}'
           WHERE id = :id""",
        id=id,
        status=status,
    )
    return id


async def read(engine: AsyncEngine, id: UUID) -> Job:
    async with transaction(engine) as conn:
        return (await jobs_by_id(conn, [id]))[id]


def from_now(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)
