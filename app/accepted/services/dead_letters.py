"""Deciding about failed jobs: run them again, edited or not, or leave it at that.

Many letters are worked through in transactions of at most `MOST`: no lock is held for long, and a process that dies
half-way leaves the rest as the dead letters that they are.
"""

from collections.abc import Awaitable, Callable

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.domain.job import Job
from accepted.services.workflow_repair import run_again
from accepted.storage import dead_letters
from accepted.storage.db.engine import reading, transaction
from accepted.storage.dead_letters import LetterFilter
from accepted.storage.jobs import manual_retry, workflow_repair
from accepted.storage.jobs.reading import jobs_by_id

MOST = 500


class Decided(msgspec.Struct, frozen=True):
    """How many letters matched when it was asked, and for how many of them it was done."""

    matched: int
    done: int


class Edited(msgspec.Struct, frozen=True):
    """A payload (JSON text) in the place of the one that failed, and who put it there."""

    payload: str
    by: str


async def retry(engine: AsyncEngine, job: Job) -> Job | None:
    """Run `job`, as it was read, again. None when it has changed. Raises `Conflict` if what it needs has failed."""
    async with transaction(engine) as conn:
        await workflow_repair.lock(conn, [job.id])
        if not (chosen := await manual_retry.choose(conn, job.tenant, job.id, job.attempt)):
            return None
        await manual_retry.clear(conn, [job.id])
        await run_again(conn, chosen)
        again = await jobs_by_id(conn, [job.id])
        await conn.commit()
    return again[job.id]


async def replay_one(engine: AsyncEngine, job: Job, edited: Edited | None) -> Job | None:
    """Run `job`, as it was read, again, with its payload or another one. None when it is no dead letter."""
    async with transaction(engine) as conn:
        await workflow_repair.lock(conn, [job.id])
        chosen = await manual_retry.choose(conn, job.tenant, job.id, job.attempt)
        if not chosen or not await manual_retry.clear(conn, [job.id]):
            return None
        await run_again(conn, chosen)
        if edited is not None:
            await manual_retry.edit(conn, job.id, edited.payload, edited.by)
        again = await jobs_by_id(conn, [job.id])
        await conn.commit()
    return again[job.id]


async def count(engine: AsyncEngine, tenant: str, wanted: LetterFilter) -> Decided:
    """What would match, with nothing done."""
    async with reading(engine) as conn:
        matched, _ = await dead_letters.count(conn, tenant, wanted)
    return Decided(matched, 0)


async def replay(engine: AsyncEngine, tenant: str, wanted: LetterFilter, spread_over: float) -> Decided:
    """Run all that match again: the first now, the others evenly over `spread_over` seconds, the oldest job first."""
    async with reading(engine) as conn:
        matched, start = await dead_letters.count(conn, tenant, wanted)
    step = spread_over / matched if matched else 0.0

    async def some(conn: AsyncConnection, done: int) -> int:
        chosen = await manual_retry.choose_letters(conn, tenant, wanted, start, done, step, MOST)
        cleared = await manual_retry.clear(conn, [one.id for one in chosen])
        await run_again(conn, [one for one in chosen if one.id in cleared])
        return len(cleared)

    return Decided(matched, await _all(engine, some))


async def discard(engine: AsyncEngine, tenant: str, wanted: LetterFilter) -> Decided:
    """Nothing more is to be done about those that match."""
    async with reading(engine) as conn:
        matched, start = await dead_letters.count(conn, tenant, wanted)

    async def some(conn: AsyncConnection, done: int) -> int:
        return await dead_letters.discard(conn, tenant, wanted, start, MOST)

    return Decided(matched, await _all(engine, some))


async def _all(engine: AsyncEngine, some: Callable[[AsyncConnection, int], Awaitable[int]]) -> int:
    """Do `some`, told how many are done, until there is nothing left to do."""
    total = 0
    while True:
        async with transaction(engine) as conn:
            done = await some(conn, total)
            await conn.commit()
        if not done:
            return total
        total += done
