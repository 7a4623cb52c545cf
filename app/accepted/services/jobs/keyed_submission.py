"""Accepting jobs whose place depends on others that are there: several statements, in one transaction for a batch.

Jobs without such a key never come here: they share one statement (`accepted.services.jobs.submission`).
"""

from collections.abc import Sequence
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.concurrency import Coalescer
from accepted.domain.job import Job, NewJob
from accepted.errors import LedgerUnavailable
from accepted.metrics import BATCH_SIZE, JOBS_ACCEPTED
from accepted.services.jobs import placement
from accepted.services.jobs.publishing import Publisher, handoff
from accepted.services.jobs.receipts import Known, Receipt, Submission, answer, first_of_each_key, is_ready, recall, ref
from accepted.storage.db.statements import Connection, Direct
from accepted.storage.jobs import submission as ledger
from accepted.storage.jobs.submission import Entry

MOST = 200
"""Jobs in one transaction."""

log = structlog.get_logger(__name__)


def needs_a_place(job: NewJob) -> bool:
    return job.ordering_key is not None or job.unique is not None


class KeyedSubmissions:
    """`accept` returns once the job is committed, never before. One transaction at a time, as for all others."""

    def __init__(self, engine: AsyncEngine, broker: Broker, publisher: Publisher, idempotency_ttl: float) -> None:
        self._ledger = Direct(engine)
        self._broker = broker
        self._publisher = publisher
        self._ttl = idempotency_ttl
        self.accept: Coalescer[Submission, Receipt] = Coalescer(self._accept_batch, max_batch=MOST)

    async def close(self) -> None:
        await self._ledger.close()

    async def _accept_batch(self, batch: list[Submission]) -> Sequence[Receipt | Exception]:
        """Which are new, which of those are the only ones of their key, where they stand, then the jobs.

        A replay has no place, and moves nobody else's; nor has a double.
        """
        BATCH_SIZE.labels("keyed submissions").observe(len(batch))
        first = [Entry(one.job, one.key, one.fingerprint) for one in first_of_each_key(batch)]
        granted = self._publisher.reserve(len(first))
        refs = []
        try:
            async with self._ledger.transaction() as conn:
                await ledger.announce_queues(conn, list({entry.job.queue for entry in first}))
                new, doubles = await placement.take_unique_keys(conn, await ledger.remember(conn, first, self._ttl))
                jobs = await placement.line_up(conn, new)
                entries = [
                    Entry(job, handoff=handoff(self._broker, publishes=number < granted))
                    for number, job in enumerate(jobs)
                ]
                accepted = await ledger.insert(conn, entries, self._ttl)
                there = await placement.holders(conn, doubles)
                await self._redirect(conn, first, there)
                await self._broker.announce(conn, {job.queue for job in jobs})
                await conn.commit()
            refs = [ref(job) for job in jobs[:granted] if is_ready(accepted[job.id])]
            self._publisher.offer(refs)
        finally:
            self._publisher.release(granted - len(refs))
        for job in jobs:
            JOBS_ACCEPTED.labels(job.queue).inc()
        remembered = await self._replayed([o for o in batch if o.job.id not in accepted and o.job.id not in there])
        return [_double(one, there) or answer(one, accepted, remembered) for one in batch]

    async def _redirect(self, conn: Connection, entries: list[Entry], there: dict[UUID, Job]) -> None:
        """A replay of a double is answered as that was: with the job that was there."""
        doubles = {(e.job.tenant, e.key): there[e.job.id].id for e in entries if e.key and e.job.id in there}
        if doubles:
            await ledger.redirect(conn, doubles)

    async def _replayed(self, replays: list[Submission]) -> Known:
        """Nothing here takes back what is committed: without an answer only those who sent a known key hear 503."""
        keys = {(one.job.tenant, one.key) for one in replays if one.key is not None}
        if not keys:
            return {}
        try:
            async with self._ledger.statements() as conn:
                return await recall(conn, keys)
        except LedgerUnavailable as error:
            log.warning("follow_up_failed", error=str(error), replays=len(keys))
            return {}


def _double(one: Submission, there: dict[UUID, Job]) -> Receipt | None:
    return Receipt(there[one.job.id], duplicate=True) if one.job.id in there else None
