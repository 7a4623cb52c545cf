"""Accepting batches: the row, all members, their edges and the idempotency record in one transaction, or nothing.

Nothing of a batch is sent while its members still arrive: they are all there, and checked, when its transaction begins.
So a slow client never holds one open, and each statement in it is short.
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
from accepted.domain.tenants import TenantQuota
from accepted.errors import Gone, KeyReused, LedgerUnavailable
from accepted.metrics import BATCH_SIZE, JOBS_ACCEPTED, SUBMISSIONS_REPLAYED
from accepted.services.jobs import placement
from accepted.services.jobs.publishing import handoff
from accepted.storage import batches as ledger
from accepted.storage.db.engine import reading, transaction
from accepted.storage.jobs import idempotency, submission
from accepted.storage.jobs.idempotency import IdempotencyKey
from accepted.storage.jobs.ordering import Line
from accepted.storage.jobs.submission import Entry

CHUNK = 500
"""Members in one statement: a fraction of a second, where a statement may take 4."""

START_WITHIN = 4.5
"""Seconds until the first statements are answered, so that a client hears 503 within 5 s of a ledger that is away. From
there on each statement has its own deadline: a batch takes as long as its members do."""

LANES = 3
"""Transactions of batches at once, of the connections that a process has."""

LARGE = 10_000
"""Members above which a batch waits its turn in a lane of its own, and holds up no small one."""


class BatchSubmission(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks for. `jobs` are `batch.total` members, each with its `batch_id`; they are walked once.
    `queues` says how many there are for each queue, `lines` which lines their ordering keys are of.

    `edges` are (needs, job_id) pairs of members; the `blockers` of those that wait are set already.
    """

    batch: NewBatch
    jobs: Iterable[NewJob]
    queues: Mapping[str, int]
    lines: Collection[Line] = ()
    edges: Sequence[tuple[UUID, UUID]] = ()
    key: str | None = None
    fingerprint: bytes | None = None


class BatchReceipt(msgspec.Struct, frozen=True):
    """A batch that is in the ledger; `replayed` says that it was so before this submission.

    `standing` is how the tenant's quota stands, if he has one.
    """

    batch: Batch
    replayed: bool = False
    standing: TenantQuota | None = None

    @property
    def new(self) -> bool:
        return not self.replayed


class BatchSubmissions:
    """Submission of batches. `accept` returns when the whole batch is committed, never before."""

    def __init__(self, engine: AsyncEngine, broker: Broker, idempotency_ttl: float) -> None:
        self._engine = engine
        self._broker = broker
        self._ttl = idempotency_ttl
        self._lanes = asyncio.Semaphore(LANES)
        self._large_lane = asyncio.Semaphore(1)

    async def accept(self, asked: BatchSubmission) -> BatchReceipt:
        """Raises `KeyReused`, `Gone`, and `LedgerUnavailable`: within 5 s unless it has begun to insert."""
        try:
            if asked.batch.total <= LARGE:
                async with asyncio.timeout(START_WITHIN) as deadline, self._lanes:
                    return await self._accept(asked, deadline)
            async with self._large_lane, asyncio.timeout(START_WITHIN) as deadline:
                return await self._accept(asked, deadline)
        except TimeoutError:
            raise LedgerUnavailable("timeout") from None

    async def _accept(self, asked: BatchSubmission, deadline: asyncio.Timeout) -> BatchReceipt:
        receipt = await self._recall(asked)
        if receipt is None:
            await self._name_queues(asked.queues)
            receipt = await self._insert(asked, deadline) or await self._recall(asked)
        if receipt is None:
            raise LedgerUnavailable("the record of this key was being pruned")
        return receipt

    async def _insert(self, asked: BatchSubmission, deadline: asyncio.Timeout) -> BatchReceipt | None:
        """All of it in one transaction. None, and nothing written, when the key was taken meanwhile."""
        BATCH_SIZE.labels("batches").observe(asked.batch.total)
        counts: Counter[str] = Counter()
        queues: Counter[str] = Counter()
        async with transaction(self._engine) as conn:
            created_at = await ledger.create(conn, asked.batch)
            await placement.lock_lines(conn, asked.lines, asked.batch.id)
            deadline.reschedule(None)
            for chunk in _chunks(asked.jobs):
                if asked.lines:
                    chunk = await placement.line_up(conn, chunk)
                entries = [Entry(job, handoff=handoff(self._broker, publishes=False)) for job in chunk]
                accepted = await submission.insert(conn, entries, self._ttl)
                counts.update(one.status for one in accepted.values())
                queues.update(job.queue for job in chunk)
            if asked.edges:
                await ledger.link(conn, asked.edges)
            await self._broker.announce(conn, asked.queues)
            if not await self._remember(conn, asked):
                return None
            await conn.commit()
        for queue, count in queues.items():
            JOBS_ACCEPTED.labels(queue).inc(count)
        return BatchReceipt(_as_accepted(asked.batch, counts, created_at))

    async def _remember(self, conn: AsyncConnection, asked: BatchSubmission) -> bool:
        if asked.key is None or asked.fingerprint is None:
            return True
        key = IdempotencyKey(asked.batch.tenant, asked.key, asked.fingerprint, asked.batch.id)
        return asked.batch.id in await idempotency.remember(conn, [key], self._ttl)

    async def _recall(self, asked: BatchSubmission) -> BatchReceipt | None:
        """The batch that this key stands for, if it was sent before."""
        if asked.key is None:
            return None
        name = (asked.batch.tenant, asked.key)
        async with reading(self._engine) as conn:
            record = (await idempotency.recall(conn, [name])).get(name)
            if record is None:
                return None
            if record.fingerprint != asked.fingerprint:
                raise KeyReused("this Idempotency-Key was used before with another body")
            batch = await ledger.find(conn, record.job_id)
        if batch is None:
            raise Gone("the batch of this Idempotency-Key is past its retention")
        SUBMISSIONS_REPLAYED.inc()
        return BatchReceipt(batch, replayed=True)

    async def _name_queues(self, queues: Iterable[str]) -> None:
        """Before their first job, and in a transaction of their own: the lock on a new name would hold others up."""
        names = iter(sorted(queues))
        async with reading(self._engine) as conn:
            while some := list(islice(names, CHUNK)):
                await submission.announce_queues(conn, some)


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
