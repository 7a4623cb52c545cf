"""Manual retries: of one job, of one dead letter with another payload, and of many dead letters by a filter.

When a job runs again, the dependents that were cancelled because of its end wait for it again. Dead
letters are worked through in transactions of at most `MAX_BATCH`, so no lock is held for long, and those that remain
when a process dies are still dead letters.
"""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.domain.job import Job
from accepted.domain.monitoring.audit import Action
from accepted.errors import NeedFailed
from accepted.services.jobs import placement
from accepted.services.monitoring import audit
from accepted.services.monitoring.audit import Record, RecordedPieces
from accepted.storage import dead_letters, queue_tenants
from accepted.storage.db.engine import reading, transaction
from accepted.storage.dead_letters import LetterFilter
from accepted.storage.jobs import manual_retry, ordering
from accepted.storage.jobs.manual_retry import Chosen
from accepted.storage.jobs.ordering import Line
from accepted.storage.jobs.reading import jobs_by_id

MAX_BATCH = 500
"""Dead letters in one transaction."""


class LetterCounts(msgspec.Struct, frozen=True):
    """How many dead letters matched when the request came, and how many of them were replayed or discarded."""

    matched: int
    done: int


class EditedPayload(msgspec.Struct, frozen=True):
    """A payload (JSON text) that replaces the one that failed, and the name of the key that sent it."""

    payload: str
    by: str


async def retry(engine: AsyncEngine, job: Job) -> Job | None:
    """Run `job`, as it was read, again. None when it has changed. Raises `NeedFailed`."""
    async with transaction(engine) as conn:
        await manual_retry.lock_workflow(conn, [job.id])
        if not (chosen := await manual_retry.choose(conn, job.tenant, {job.id: job.attempt})):
            return None
        await manual_retry.clear(conn, [job.id])
        await _run_again(conn, chosen)
        await audit.record(conn, Action.JOB_RETRIED, job.tenant, str(job.id))
        again = await jobs_by_id(conn, [job.id])
        await conn.commit()
    return again[job.id]


async def retry_many(engine: AsyncEngine, tenant: str, jobs: Sequence[Job], record: Record) -> set[UUID]:
    """Run those of `jobs`, as they were read, again that can, in one transaction. Returns all that wait again.

    A job that needs a failed one waits again when that one is retried, now or later.
    """
    async with transaction(engine) as conn:
        ids = [job.id for job in jobs]
        await manual_retry.lock_workflow(conn, ids)
        failed = await manual_retry.failed_needs(conn, ids)
        free = {job.id: job.attempt for job in jobs if job.id not in failed}
        chosen = await manual_retry.choose(conn, tenant, free)
        await manual_retry.clear(conn, [one.id for one in chosen])
        again = await _run_again(conn, chosen)
        await record(conn, len(again))
        await conn.commit()
    return again


async def replay(engine: AsyncEngine, job: Job, edited: EditedPayload | None) -> Job | None:
    """Run `job`, as it was read, again, with its payload or another one. None when it is not a dead letter any more.

    Raises `NeedFailed`.
    """
    async with transaction(engine) as conn:
        await manual_retry.lock_workflow(conn, [job.id])
        chosen = await manual_retry.choose(conn, job.tenant, {job.id: job.attempt})
        if not chosen or not await manual_retry.clear(conn, [job.id]):
            return None
        await _run_again(conn, chosen)
        if edited is not None:
            await manual_retry.edit(conn, job.id, edited.payload, edited.by)
        replayed = Action.DEAD_LETTER_REPLAYED
        await audit.record(conn, replayed, job.tenant, str(job.id), payload_edited=edited is not None)
        again = await jobs_by_id(conn, [job.id])
        await conn.commit()
    return again[job.id]


async def count_letters(engine: AsyncEngine, tenant: str, wanted: LetterFilter) -> LetterCounts:
    """How many dead letters match. Nothing is done to them."""
    async with reading(engine) as conn:
        matched, _ = await dead_letters.count(conn, tenant, wanted)
    return LetterCounts(matched, 0)


async def replay_letters(engine: AsyncEngine, tenant: str, wanted: LetterFilter, spread_over: float) -> LetterCounts:
    """Run the jobs of all that match again, the oldest now and the others evenly over `spread_over` seconds."""
    async with reading(engine) as conn:
        matched, start = await dead_letters.count(conn, tenant, wanted)
    step = spread_over / matched if matched else 0.0
    recorded = RecordedPieces(Action.DEAD_LETTERS_REPLAYED, tenant, wanted, matched)

    async def replay_some(conn: AsyncConnection, done: int) -> int:
        chosen = await manual_retry.choose_letters(conn, tenant, wanted, start, done, step, MAX_BATCH)
        cleared = await manual_retry.clear(conn, [one.id for one in chosen])
        await _run_again(conn, [one for one in chosen if one.id in cleared])
        return len(cleared)

    return LetterCounts(matched, await _repeat(engine, replay_some, recorded))


async def discard_letters(engine: AsyncEngine, tenant: str, wanted: LetterFilter) -> LetterCounts:
    """Discard all that match. Their jobs stay failed."""
    async with reading(engine) as conn:
        matched, start = await dead_letters.count(conn, tenant, wanted)
    recorded = RecordedPieces(Action.DEAD_LETTERS_DISCARDED, tenant, wanted, matched)

    async def discard_some(conn: AsyncConnection, done: int) -> int:
        return await dead_letters.discard(conn, tenant, wanted, start, MAX_BATCH)

    return LetterCounts(matched, await _repeat(engine, discard_some, recorded))


async def _repeat(
    engine: AsyncEngine, some: Callable[[AsyncConnection, int], Awaitable[int]], recorded: RecordedPieces
) -> int:
    """Call `some` with the number done so far, each time in a transaction of its own, until it does no more."""
    total = 0
    while True:
        async with transaction(engine) as conn:
            done = await some(conn, total)
            await recorded.record(conn, done)
            await conn.commit()
        if not done:
            return total
        total += done


async def _run_again(conn: AsyncConnection, chosen: Sequence[Chosen]) -> set[UUID]:
    """Reset these jobs, which are locked, and block those again that were cancelled because of them.

    Each joins its line at the end. Returns all of them. Raises `NeedFailed`. The caller commits.
    """
    ids = [one.id for one in chosen]
    for failed in (await manual_retry.failed_needs(conn, ids)).values():
        raise NeedFailed(failed.needs, failed.ref, failed.status)
    moments = {one.id: one.due_at for one in chosen}
    if needed := [one.id for one in chosen if one.has_dependents]:
        await manual_retry.lock_workflow(conn, needed)
        members = await manual_retry.with_jobs_behind(conn, needed)
        await _rejoin(conn, {one.id: one.line for one in members if one.line is not None})
        await manual_retry.mend_edges(conn, [one.id for one in members])
        moments = {one.id: one.run_at for one in members} | moments
    pairs = await manual_retry.again(conn, list(moments.items()))
    await queue_tenants.announce(conn, pairs)  # a queue that was deleted since is there again
    return set(moments)


async def _rejoin(conn: AsyncConnection, lines: dict[UUID, Line]) -> None:
    """Move these jobs to the ends of their lines: a job behind one of them waits for the one before it."""
    if not lines:
        return
    await ordering.lock(conn, {line: job_id for job_id, line in sorted(lines.items(), key=lambda item: item[1])})
    for job_id in await ordering.in_line(conn, list(lines)):
        await ordering.leave(conn, job_id)
    await placement.append(conn, lines)
