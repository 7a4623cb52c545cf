"""Submission of batches: the row, all members, their edges and the idempotency record in one transaction, or nothing.

The transaction begins when all members have arrived and were checked. So a slow client never holds one open, and each
of its statements is short.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.batch import Batch, NewBatch
from accepted.domain.job import NewJob
from accepted.domain.monitoring.statistics import Series, by_series
from accepted.domain.tenants import TenantQuota
from accepted.errors import Gone, LedgerUnavailable
from accepted.metrics import BATCH_SIZE, SUBMISSIONS_REPLAYED, count_accepted
from accepted.services.jobs import placement
from accepted.services.jobs.publishing import handoff
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import batches as ledger
from accepted.storage import queue_tenants
from accepted.storage.db.engine import reading, transaction
from accepted.storage.jobs import idempotency, submission
from accepted.storage.jobs.idempotency import IdempotencyKey
from accepted.storage.jobs.ordering import Line
from accepted.storage.jobs.submission import Entry

CHUNK = 500
"""Members in one statement, which takes a fraction of a second; the limit is 4 s."""

START_WITHIN = 4.5
"""Seconds for the first statements, so that a client gets 503 within 5 s when the ledger does not answer. After them
each statement has its own deadline, and a batch takes as long as its members need."""

PARALLEL = 3
"""Batches inserted at once; each has one of the process's connections."""

LARGE = 10_000
"""Members above which a batch is large. Large batches are inserted one at a time, beside the small ones."""


class BatchSubmission(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that a client submits, with its idempotency key and the fingerprint of its body, if it came with a key.

    `jobs` are `batch.total` members, each with its `batch_id`; they are iterated once. `queues` has the number of
    members by queue, `ordering_lines` the lines of their ordering keys. `edges` are (needs, job_id) pairs of members;
    the `blockers` of those that wait are set already.
    """

    batch: NewBatch
    jobs: Iterable[NewJob]
    queues: Mapping[str, int]
    ordering_lines: Collection[Line] = ()
    edges: Sequence[tuple[UUID, UUID]] = ()
    key: str | None = None
    fingerprint: bytes | None = None


class BatchReceipt(msgspec.Struct, frozen=True):
    """A batch that is in the ledger. `replayed`: an earlier submission with the same idempotency key made it.

    `quota` is the tenant's quota after the submission, if it took from one.
    """

    batch: Batch
    replayed: bool = False
    quota: TenantQuota | None = None

    @property
    def new(self) -> bool:
        return not self.replayed


class BatchSubmissions:
    """Submission of batches. `accept` returns when the whole batch is committed, never before."""

    def __init__(
        self, engine: AsyncEngine, broker: Broker, idempotency_ttl: float, measurements: Measurements | None = None
    ) -> None:
        self._engine = engine
        self._broker = broker
        self._ttl = idempotency_ttl
        self._measurements = measurements or Measurements()
        self._small = asyncio.Semaphore(PARALLEL)
        self._large = asyncio.Semaphore(1)

    async def accept(self, wanted: BatchSubmission) -> BatchReceipt:
        """Raises `KeyReused` and `Gone` for a known key, and `LedgerUnavailable`, within 5 s before inserting."""
        try:
            if wanted.batch.total <= LARGE:
                async with asyncio.timeout(START_WITHIN) as deadline, self._small:
                    return await self._accept(wanted, deadline)
            async with self._large, asyncio.timeout(START_WITHIN) as deadline:
                return await self._accept(wanted, deadline)
        except TimeoutError:
            raise LedgerUnavailable("timeout") from None

    async def _accept(self, wanted: BatchSubmission, deadline: asyncio.Timeout) -> BatchReceipt:
        receipt = await self._recall(wanted)
        if receipt is None:
            await self._name_queues(wanted.batch.tenant, wanted.queues)
            receipt = await self._insert(wanted, deadline) or await self._recall(wanted)
        if receipt is None:
            raise LedgerUnavailable("the record of this key was being pruned")
        return receipt

    async def _insert(self, wanted: BatchSubmission, deadline: asyncio.Timeout) -> BatchReceipt | None:
        """Insert the whole batch in one transaction. None, with nothing written, when the key was taken meanwhile."""
        BATCH_SIZE.labels("batches").observe(wanted.batch.total)
        counts: Counter[str] = Counter()
        new: Counter[Series] = Counter()
        async with transaction(self._engine) as conn:
            created_at = await ledger.create(conn, wanted.batch)
            await placement.lock_lines(conn, wanted.ordering_lines, wanted.batch.id)
            deadline.reschedule(None)
            for chunk in _chunks(wanted.jobs):
                if wanted.ordering_lines:
                    chunk = await placement.line_up(conn, chunk)
                entries = [Entry(job, handoff=handoff(self._broker, publishes=False)) for job in chunk]
                accepted = await submission.insert(conn, entries, self._ttl)
                counts.update(one.status for one in accepted.values())
                new.update(by_series(chunk))
            if wanted.edges:
                await ledger.link(conn, wanted.edges)
            await ledger.set_counts(conn, wanted.batch.id, counts)
            await self._broker.announce(conn, wanted.queues)
            if not await self._remember(conn, wanted):
                return None
            await conn.commit()
        self._measurements.accepted_of(new)
        count_accepted(new)
        return BatchReceipt(_as_accepted(wanted.batch, counts, created_at))

    async def _remember(self, conn: AsyncConnection, wanted: BatchSubmission) -> bool:
        if wanted.key is None or wanted.fingerprint is None:
            return True
        key = IdempotencyKey(wanted.batch.tenant, wanted.key, wanted.fingerprint, wanted.batch.id)
        return wanted.batch.id in await idempotency.remember(conn, [key], self._ttl)

    async def _recall(self, wanted: BatchSubmission) -> BatchReceipt | None:
        """The batch that the key stands for; None for a new key."""
        if wanted.key is None:
            return None
        name = (wanted.batch.tenant, wanted.key)
        async with reading(self._engine) as conn:
            record = (await idempotency.recall(conn, [name])).get(name)
            if record is None:
                return None
            if reused := record.reused_by(wanted.fingerprint):
                raise reused
            batch = await ledger.find(conn, record.job_id)
        if batch is None:
            raise Gone("the batch of this Idempotency-Key is past its retention")
        SUBMISSIONS_REPLAYED.inc()
        return BatchReceipt(batch, replayed=True)

    async def _name_queues(self, tenant: str, queues: Iterable[str]) -> None:
        """Called before their first job, in transactions of their own: a lock on a new name makes others wait."""
        names = iter(sorted(queues))
        async with reading(self._engine) as conn:
            while some := list(islice(names, CHUNK)):
                await queue_tenants.announce(conn, [(queue, tenant) for queue in some])


def _chunks(jobs: Iterable[NewJob]) -> Iterator[list[NewJob]]:
    left = iter(jobs)
    while chunk := list(islice(left, CHUNK)):
        yield chunk


def _as_accepted(batch: NewBatch, counts: Counter[str], created_at: datetime) -> Batch:
    """The row as it was just written, without reading it back."""
    return Batch(
        id=batch.id, tenant=batch.tenant, workflow=batch.workflow, total=batch.total, counts=counts,
        created_at=created_at,
    )  # fmt: skip
