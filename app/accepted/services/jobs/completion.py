"""The end of a job or attempt, by outcome, expiry or cancellation, and what follows from it, in one transaction.

The outcome, the attempt's record, the webhook, the release of dependents and the entry for the batch commit together,
or not at all. So no process has to search for ends whose consequences are missing.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.broker.base import Broker
from accepted.concurrency import Coalescer
from accepted.containment import RowErrors
from accepted.domain.failures import InvalidJob
from accepted.domain.ids import BEFORE_ALL
from accepted.domain.job import Job, Status
from accepted.domain.transitions import Transition
from accepted.errors import Conflict, LedgerUnavailable, ResourceNotFound
from accepted.metrics import BATCH_SIZE, OUTCOMES_FENCED
from accepted.services import webhooks
from accepted.services.jobs import placement
from accepted.services.monitoring.audit import Record
from accepted.storage.attempts import completion
from accepted.storage.db import notifications
from accepted.storage.db.engine import reading, transaction
from accepted.storage.db.statements import Connection, Direct
from accepted.storage.jobs import cancellation, dependencies, ordering, outbox, submission
from accepted.storage.jobs.cancellation import StatusChange
from accepted.storage.jobs.reading import jobs_by_id

MAX_BATCH = notifications.MAX_IDS
"""Transitions in one transaction: as many as one notification names."""

LINGER = 0.002
"""Seconds in which outcomes gather once they come faster than commits."""

MAX_CANCEL_TRIES = 20
"""A job changes its status once or twice while it is cancelled. More often than this means a broken ledger."""

_UNSETTLED = RowErrors("outcomes")
_UNEXPIRED = RowErrors("expiry")


async def settle(engine: AsyncEngine, broker: Broker, batch: Sequence[Transition]) -> list[bool]:
    """Apply the transitions in one transaction. False: nothing was written for this one, because it did not pass its
    fence, or because what follows from it fails, which stops no other.

    Raises `LedgerUnavailable`. The caller may then settle the same batch again: transitions that were committed after
    all do not pass their fence a second time.
    """

    async def write(some: Sequence[Transition]) -> list[bool]:
        async with transaction(engine) as conn:
            applied = await record(conn, broker, some)
            await conn.commit()
        return applied

    return await _UNSETTLED.together_or_each(batch, write, name=lambda one: one.running.job_id, refused=False)


async def settle_whole(conn: AsyncConnection, broker: Broker, success: Transition, max_descendants: int) -> bool:
    """Commit a success with its children, on `conn`, together with what that transaction has written before.

    False: the success did not pass its fence. Raises `InvalidJob` when the root job would have more than
    `max_descendants`, `LedgerUnavailable`, or what the driver raises. Only True means that the commit is certain.
    """
    children = success.children
    root = children[0].root_id or success.running.job_id if children else None
    if root is not None and not await submission.count_descendants(conn, root, len(children), max_descendants):
        raise InvalidJob(f"more than {max_descendants} jobs from one root")
    changed = await completion.apply(conn, [success])
    if not changed:
        OUTCOMES_FENCED.inc()
        return False
    await follow_up(conn, broker, changed)
    await placement.insert(conn, broker, children)
    await conn.commit()
    return True


async def expire(engine: AsyncEngine, broker: Broker, limit: int) -> int:
    """waiting -> expired for up to `limit` jobs past their `expires_at`, with their webhooks. Returns how many.

    A job whose end fails stops no other, and is left out for a while.
    """

    async def write(ids: Sequence[UUID]) -> list[bool]:
        async with transaction(engine) as conn:
            expired = await outbox.expire(conn, ids)
            await follow_up(conn, broker, expired)
            await notifications.announce(conn, [one.job_id for one in expired])
            await conn.commit()
        ended = {one.job_id for one in expired}
        return [job_id in ended for job_id in ids]

    async with reading(engine) as conn:
        late = await outbox.late(conn, limit, [UUID(key) for key in _UNEXPIRED.failed_lately()])
    return sum(await _UNEXPIRED.together_or_each(late, write, name=str, refused=False))


async def cancel(engine: AsyncEngine, broker: Broker, job: Job) -> Job:
    """Cancel a job for a client. Returns it as it is then: `cancelled`, or `running` until its worker is told.

    A job that changes meanwhile is read again and cancelled as it is then.
    Raises `Conflict` for a job that has finished, `ResourceNotFound` for one that was pruned meanwhile, and
    `LedgerUnavailable`.
    """
    for _ in range(MAX_CANCEL_TRIES):
        if job.finished:
            raise Conflict(f"the job has finished: it is {job.status}")
        cancelled = await _try_to_cancel(engine, broker, job)
        async with reading(engine) as conn:
            found = await jobs_by_id(conn, [job.id])
        if job.id not in found:
            raise ResourceNotFound("no such job")
        job = found[job.id]
        if cancelled:
            return job
    raise LedgerUnavailable("the job kept changing")


async def cancel_many(engine: AsyncEngine, broker: Broker, ids: Sequence[UUID], record: Record) -> set[UUID]:
    """Cancel these jobs for a client, in one transaction. Returns those that are cancelled, or whose worker is told.

    The others have ended, or are just changing their state.
    """
    async with transaction(engine) as conn:
        changed = await cancellation.cancel_many(conn, ids)
        await follow_up(conn, broker, changed)
        await notifications.announce(conn, [one.job_id for one in changed if one.finished])
        await record(conn, len(changed))
        await conn.commit()
    return {one.job_id for one in changed}


async def finish_ends(engine: AsyncEngine, broker: Broker) -> int:
    """Release or cancel more of the jobs behind ends that have too many for one transaction. Returns for how many ends.

    Each call goes along a bounded number of edges, in one transaction. What it leaves is in the ledger for the next
    call, in whichever process: one that dies takes nothing with it.
    """
    async with transaction(engine) as conn:
        unfinished = await dependencies.take_unfinished(conn)
        if unfinished is None:
            return 0
        cancelled = await dependencies.cancel_behind(conn, unfinished.unsuccessful) if unfinished.unsuccessful else []
        await _release(conn, broker, [one.job_id for one in cancelled if one.has_dependents], unfinished.succeeded)
        await _write_webhooks(conn, broker, cancelled)
        await conn.commit()
    return len(unfinished.unsuccessful) + len(unfinished.succeeded)


class Outcomes:
    """The outcomes of one worker's attempts, coalesced.

    Where nothing follows from the end of a job, its outcome is one statement that commits itself, which saves a worker
    a fifth of its CPU time. The statement leaves out other jobs, whatever the worker believes.
    """

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._ledger = Direct(engine)
        self._broker = broker
        self._alone: Coalescer[Transition, bool] = Coalescer(self._apply, max_batch=MAX_BATCH, linger=LINGER)
        self._followed: Coalescer[Transition, bool] = Coalescer(self._settle, max_batch=MAX_BATCH, linger=LINGER)

    async def record(self, transition: Transition) -> bool:
        """Returns once the outcome is committed; False: it has not passed its fence. Raises `LedgerUnavailable`."""
        if transition.running.ends_alone and await self._alone(transition):
            return True
        return await self._followed(transition)

    async def close(self) -> None:
        await self._ledger.close()

    async def _apply(self, batch: list[Transition]) -> Sequence[bool]:
        BATCH_SIZE.labels("outcomes").observe(len(batch))
        async with self._ledger.statements() as conn:
            changed = await completion.apply(conn, batch, only_alone=True)
        applied = {one.job_id for one in changed}
        return [transition.running.job_id in applied for transition in batch]

    async def _settle(self, batch: list[Transition]) -> Sequence[bool]:
        async with self._ledger.transaction() as conn:
            applied = await record(conn, self._broker, batch)
            await conn.commit()
        return applied


async def record(conn: Connection, broker: Broker, batch: Sequence[Transition]) -> list[bool]:
    """Apply the transitions, and what follows from them. Returns which of them passed their fence.

    The caller commits.
    """
    BATCH_SIZE.labels("outcomes").observe(len(batch))
    changed = await completion.apply(conn, list(batch))
    await follow_up(conn, broker, changed)
    applied = {one.job_id for one in changed}
    OUTCOMES_FENCED.inc(len(batch) - len(applied))
    return [transition.running.job_id in applied for transition in batch]


async def follow_up(conn: Connection, broker: Broker, changed: Sequence[StatusChange]) -> None:
    """For those of `changed` that have finished: release their dependents, write their webhooks.

    The caller commits.
    """
    finished = [one for one in changed if one.finished]
    finished += await _release_dependents(conn, broker, finished)
    await _write_webhooks(conn, broker, finished)


async def _write_webhooks(conn: Connection, broker: Broker, finished: Sequence[StatusChange]) -> None:
    await webhooks.record(conn, broker, [one.job_id for one in finished if one.wants_webhook])


async def _try_to_cancel(engine: AsyncEngine, broker: Broker, job: Job) -> bool:
    """End the job, with its webhook, or leave the request for its worker. False: the job has changed meanwhile."""
    async with transaction(engine) as conn:
        done = await cancellation.cancel(conn, job.id)
        if done is None:
            return False
        await follow_up(conn, broker, [done])
        if done.finished:
            await notifications.announce(conn, [job.id])
        await conn.commit()
    return True


async def _release_dependents(conn: Connection, broker: Broker, finished: Sequence[StatusChange]) -> list[StatusChange]:
    """Release the jobs that waited for these to end; cancel those that needed one of them to succeed, if it did not.

    Returns the cancelled jobs, whose own dependents are released or cancelled, too.
    """
    needed = [one for one in finished if one.has_dependents]
    if not needed:
        return []
    unsuccessful = [one.job_id for one in needed if one.status != Status.SUCCEEDED]
    cancelled = await dependencies.cancel_behind(conn, unsuccessful) if unsuccessful else []
    succeeded = {one.job_id: BEFORE_ALL for one in needed if one.status == Status.SUCCEEDED}
    await _release(conn, broker, [one.job_id for one in (*needed, *cancelled) if one.has_dependents], succeeded)
    return cancelled


async def _release(conn: Connection, broker: Broker, ended: Sequence[UUID], succeeded: Mapping[UUID, UUID]) -> None:
    """Release the jobs whose last need was one of `ended`, or of `succeeded` behind the job that each comes with."""
    await ordering.share(conn, ended)
    queues: set[str] = set()
    while ended or succeeded:  # one statement passes over a bounded number of ended jobs in a line
        released = await dependencies.release(conn, ended, succeeded, published=broker.is_ledger)
        queues |= released.queues
        ended, succeeded = released.passed_by, {}
    await broker.announce(conn, queues)
