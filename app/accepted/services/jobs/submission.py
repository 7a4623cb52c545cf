"""Submission of jobs: concurrent submissions become one transaction, and each is answered after its COMMIT.

Most jobs share one statement. Those with a unique key or an ordering key depend on jobs that are in the ledger already;
they take several statements, in one transaction for a batch, on a connection of their own.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import logs
from accepted.broker.base import Broker
from accepted.concurrency import Coalescer, Deadlines
from accepted.domain.job import Job, NewJob, as_stored
from accepted.domain.monitoring.statistics import Series, by_series
from accepted.domain.references import JobRef
from accepted.errors import Gone, LedgerUnavailable
from accepted.metrics import BATCH_SIZE, SUBMISSIONS_REPLAYED, count_accepted
from accepted.services.jobs import placement
from accepted.services.jobs.publishing import Publisher, handoff
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import queue_tenants
from accepted.storage.db.statements import Connection, Direct
from accepted.storage.jobs import idempotency
from accepted.storage.jobs import submission as ledger
from accepted.storage.jobs.idempotency import IdempotencyKey, KeyRecord
from accepted.storage.jobs.reading import jobs_by_id
from accepted.storage.jobs.submission import Accepted, Entry
from accepted.storage.queue_tenants import Pair, pairs_of

MAX_BATCH = 200
"""Jobs in one transaction. One transaction at a time: while it commits the next batch fills, so batches are large."""

DEADLINE = 4.5
"""Seconds, so that a client gets 503 within 5 s when the ledger does not answer."""


class Submission(msgspec.Struct, frozen=True):
    """A job that a client submits, with its idempotency key and the fingerprint of its body, if it came with a key."""

    job: NewJob
    key: str | None = None
    fingerprint: bytes | None = None


class Receipt(msgspec.Struct, frozen=True):
    """A job that is in the ledger.

    `replayed`: an earlier submission with the same idempotency key made it. `duplicate`: it is another job, which has
    the unique key of the submitted one.
    """

    job: Job
    replayed: bool = False
    duplicate: bool = False

    @property
    def new(self) -> bool:
        return not (self.replayed or self.duplicate)


_Records: TypeAlias = dict[tuple[str, str], tuple[KeyRecord, Job | None]]
"""By tenant and idempotency key: its record, and the job that it stands for (None: it has been pruned)."""


class Submissions:
    """All submissions of one API process. `accept` returns when the job is committed, never before."""

    def __init__(
        self, engine: AsyncEngine, broker: Broker, idempotency_ttl: float, measurements: Measurements | None = None
    ) -> None:
        self._measurements = measurements or Measurements()
        self._ledger = Direct(engine)
        self._ledger_of_placed = Direct(engine)
        self._broker = broker
        self._ttl = idempotency_ttl
        self._publisher = Publisher(engine, broker)
        self._deadlines = Deadlines(DEADLINE, lambda: LedgerUnavailable("timeout"))
        self._known_pairs: set[Pair] = set()
        self._accept: Coalescer[Submission, Receipt] = Coalescer(self._accept_batch, max_batch=MAX_BATCH)
        self._accept_placed: Coalescer[Submission, Receipt] = Coalescer(self._accept_placed_batch, max_batch=MAX_BATCH)

    async def accept(self, submission: Submission) -> Receipt:
        """Raises `KeyReused` and `Gone` for a known key, and `LedgerUnavailable` within 5 s."""
        job = submission.job
        is_placed = job.ordering_key is not None or job.unique is not None
        accepted = (self._accept_placed if is_placed else self._accept)(submission)
        self._deadlines.add(accepted)
        return await accepted

    def forget_queues(self) -> None:
        """A queue may have been deleted: the next job of each tenant on it announces it again."""
        self._known_pairs.clear()

    async def close(self) -> None:
        """Wait until references are published, and disconnect from the ledger."""
        await self._publisher.drain()
        await self._ledger_of_placed.close()
        await self._ledger.close()

    async def _accept_batch(self, batch: list[Submission]) -> Sequence[Receipt | Exception]:
        """One statement inserts and commits. Answers and references go out after it."""
        BATCH_SIZE.labels("submissions").observe(len(batch))
        first = _first_of_each_key(batch)
        granted = self._publisher.reserve(len(first))
        entries = [
            Entry(one.job, one.key, one.fingerprint, handoff(self._broker, publishes=number < granted))
            for number, one in enumerate(first)
        ]
        refs = []
        try:
            async with self._ledger.statements() as conn:
                await self._name_queues(conn, entries)
                accepted = await ledger.insert(conn, entries, self._ttl)
            # COMMIT: the statement was its own transaction, and it has been answered.
            refs = [_ref(entry.job) for entry in entries[:granted] if _is_ready(accepted.get(entry.job.id))]
            self._publisher.offer(refs)
        finally:
            self._publisher.release(granted - len(refs))
        new = by_series(entry.job for entry in entries if entry.job.id in accepted)
        queues = {queue for _, queue, _ in new}
        records = await self._follow_up(self._ledger, [one for one in batch if one.job.id not in accepted], queues)
        self._count(new)
        return [_answer(one, accepted, records) for one in batch]

    async def _accept_placed_batch(self, batch: list[Submission]) -> Sequence[Receipt | Exception]:
        """In this order: idempotency keys, unique keys, places in lines, jobs.

        So a replay takes no unique key, and neither a replay nor a duplicate takes a place in a line.
        """
        BATCH_SIZE.labels("keyed submissions").observe(len(batch))
        first = [Entry(one.job, one.key, one.fingerprint) for one in _first_of_each_key(batch)]
        granted = self._publisher.reserve(len(first))
        refs = []
        try:
            async with self._ledger_of_placed.transaction() as conn:
                await queue_tenants.announce(conn, pairs_of(entry.job for entry in first))
                unseen = await _remember_keys(conn, first, self._ttl)
                new, duplicates = await placement.take_unique_keys(conn, unseen)
                jobs = await placement.line_up(conn, new)
                entries = [
                    Entry(job, handoff=handoff(self._broker, publishes=number < granted))
                    for number, job in enumerate(jobs)
                ]
                accepted = await ledger.insert(conn, entries, self._ttl)
                holders = await placement.holders(conn, duplicates)
                await _redirect(conn, first, holders)
                await self._broker.announce(conn, {job.queue for job in jobs})
                await conn.commit()
            refs = [_ref(job) for job in jobs[:granted] if _is_ready(accepted[job.id])]
            self._publisher.offer(refs)
        finally:
            self._publisher.release(granted - len(refs))
        self._count(by_series(jobs))
        replays = [one for one in batch if one.job.id not in accepted and one.job.id not in holders]
        records = await self._follow_up(self._ledger_of_placed, replays, set())
        return [
            Receipt(holders[one.job.id], duplicate=True) if one.job.id in holders else _answer(one, accepted, records)
            for one in batch
        ]

    async def _name_queues(self, conn: Connection, entries: list[Entry]) -> None:
        """Called before their first job: a queue without jobs is harmless, a job on an unknown queue is not."""
        if fresh := pairs_of(entry.job for entry in entries) - self._known_pairs:
            await queue_tenants.announce(conn, fresh)
            self._known_pairs |= fresh

    def _count(self, new: Mapping[Series, int]) -> None:
        self._measurements.accepted_of(new)
        count_accepted(new)

    async def _follow_up(self, direct: Direct, replays: list[Submission], queues: set[str]) -> _Records:
        """Notify the workers of `queues`, and recall the records of `replays`, whose keys made no job just now.

        What is committed stays so: a lost notification costs a second, and without the records only the replays are
        answered with 503.
        """
        keys = {(one.job.tenant, one.key) for one in replays if one.key is not None}
        if not keys and not (self._broker.is_ledger and queues):
            return {}
        try:
            async with direct.statements() as conn:
                await self._broker.announce(conn, queues)
                return await _recall(conn, keys) if keys else {}
        except LedgerUnavailable as error:
            logs.outage("follow_up_failed", error)
            return {}


async def _remember_keys(conn: Connection, entries: list[Entry], ttl: float) -> list[NewJob]:
    """Write the records of the idempotency keys. Returns the jobs whose key is new, and those without one."""
    keys = [
        IdempotencyKey(entry.job.tenant, entry.key, entry.fingerprint, entry.job.id)
        for entry in entries
        if entry.key is not None and entry.fingerprint is not None
    ]
    new = await idempotency.remember(conn, keys, ttl)
    return [entry.job for entry in entries if entry.key is None or entry.job.id in new]


async def _recall(conn: Connection, keys: set[tuple[str, str]]) -> _Records:
    records = await idempotency.recall(conn, sorted(keys))
    jobs = await jobs_by_id(conn, [record.job_id for record in records.values()])
    return {key: (record, jobs.get(record.job_id)) for key, record in records.items()}


async def _redirect(conn: Connection, entries: list[Entry], holders: dict[UUID, Job]) -> None:
    """Let the keys of duplicates stand for the jobs that they were answered with, so a replay gets the same answer."""
    redirected = {(e.job.tenant, e.key): holders[e.job.id].id for e in entries if e.key and e.job.id in holders}
    if redirected:
        await idempotency.redirect(conn, redirected)


def _first_of_each_key(batch: list[Submission]) -> list[Submission]:
    """One submission for each idempotency key. The others with that key are answered as its replays."""
    first: dict[object, Submission] = {}
    for one in batch:
        first.setdefault(one.job.id if one.key is None else (one.job.tenant, one.key), one)
    return list(first.values())


def _answer(one: Submission, accepted: dict[UUID, Accepted], records: _Records) -> Receipt | Exception:
    """The answer to one submission of a batch: `accepted` are the jobs inserted, `records` those of all other keys."""
    made = accepted.get(one.job.id)
    if made is not None:
        return Receipt(as_stored(one.job, made.status, made.created_at, made.run_at))
    found = records.get((one.job.tenant, one.key or ""))
    if found is None:
        return LedgerUnavailable("the record of this key was being pruned")
    record, job = found
    if reused := record.reused_by(one.fingerprint):
        return reused
    if job is None:
        return Gone("the job of this Idempotency-Key is past its retention")
    if job.deleted_at is not None:
        return Gone("the job of this Idempotency-Key was deleted")
    SUBMISSIONS_REPLAYED.inc()
    return Receipt(job, replayed=True, duplicate=record.duplicate)


def _is_ready(made: Accepted | None) -> bool:
    return made is not None and made.status == "queued" and not made.on_hold


def _ref(job: NewJob) -> JobRef:
    return JobRef(job.id, 0, job.queue, job.type, job.priority, job.traceparent)
