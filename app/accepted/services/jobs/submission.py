"""Accepting jobs: concurrent submissions become one transaction, and each is answered after its COMMIT."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.concurrency import Coalescer, Deadlines
from accepted.errors import LedgerUnavailable
from accepted.metrics import BATCH_SIZE, JOBS_ACCEPTED
from accepted.services.jobs.keyed_submission import KeyedSubmissions, needs_a_place
from accepted.services.jobs.publishing import Publisher, handoff
from accepted.services.jobs.receipts import Known, Receipt, Submission, answer, first_of_each_key, is_ready, recall, ref
from accepted.storage.db.statements import Connection, Direct
from accepted.storage.jobs import submission as ledger
from accepted.storage.jobs.submission import Accepted, Entry

MOST = 200
"""Jobs in one transaction."""

LANES = 1
"""Transactions at once. One: while it commits the next batch fills, which is what makes the batches large."""

DEADLINE = 4.5
"""Seconds. A client hears 503 within 5 s when the ledger does not answer."""

log = structlog.get_logger(__name__)


class Submissions:
    """Submission of jobs. `accept` returns when the job is committed, never before."""

    def __init__(self, engine: AsyncEngine, broker: Broker, idempotency_ttl: float) -> None:
        self._ledger = Direct(engine)
        self._broker = broker
        self._ttl = idempotency_ttl
        self._publisher = Publisher(engine, broker)
        self._deadlines = Deadlines(DEADLINE, lambda: LedgerUnavailable("timeout"))
        self._known_queues: set[str] = set()
        self._keyed = KeyedSubmissions(engine, broker, self._publisher, idempotency_ttl)
        self._accept: Coalescer[Submission, Receipt] = Coalescer(self._accept_batch, max_batch=MOST, parallel=LANES)

    async def accept(self, submission: Submission) -> Receipt:
        """Raises `KeyReused` for a key that came with another body, `LedgerUnavailable` within 5 s."""
        accepted = (self._keyed.accept if needs_a_place(submission.job) else self._accept)(submission)
        self._deadlines.add(accepted)
        return await accepted

    async def close(self) -> None:
        """Wait for what is under way, and let go of the ledger."""
        await self._publisher.drain()
        await self._keyed.close()
        await self._ledger.close()

    async def _accept_batch(self, batch: list[Submission]) -> Sequence[Receipt | Exception]:
        """One statement inserts and commits; only then is anybody answered and anything published."""
        BATCH_SIZE.labels("submissions").observe(len(batch))
        first = first_of_each_key(batch)
        granted = self._publisher.reserve(len(first))
        entries = [self._entry(one, number < granted) for number, one in enumerate(first)]
        published = 0
        try:
            async with self._ledger.statements() as conn:
                await self._name_queues(conn, entries)
                accepted = await ledger.insert(conn, entries, self._ttl)
            # COMMIT: the statement was its own transaction, and it has been answered.
            refs = [ref(e.job) for e in entries[:granted] if is_ready(accepted.get(e.job.id))]
            published = len(refs)
            self._publisher.offer(refs)
        finally:
            self._publisher.release(granted - published)
        remembered = await self._follow_up(batch, entries, accepted)
        for queue, count in Counter(entry.job.queue for entry in entries if entry.job.id in accepted).items():
            JOBS_ACCEPTED.labels(queue).inc(count)
        return [answer(one, accepted, remembered) for one in batch]

    def _entry(self, one: Submission, publishes: bool) -> Entry:
        return Entry(one.job, one.key, one.fingerprint, handoff(self._broker, publishes=publishes))

    async def _name_queues(self, conn: Connection, entries: list[Entry]) -> None:
        """Before their first job: a queue without jobs is harmless, a job on a queue that no worker knows is not."""
        if fresh := {entry.job.queue for entry in entries} - self._known_queues:
            await ledger.announce_queues(conn, list(fresh))
            self._known_queues |= fresh

    async def _follow_up(self, batch: list[Submission], entries: list[Entry], accepted: dict[UUID, Accepted]) -> Known:
        """Notify workers; return what became of every key in `batch` that did not make a job of its own just now.

        Nothing here takes back what is committed: a lost notification costs a second, and without an answer only
        those who sent a known key hear 503.
        """
        keys = {(one.job.tenant, one.key) for one in batch if one.key is not None and one.job.id not in accepted}
        if not keys and not self._broker.is_ledger:
            return {}
        try:
            async with self._ledger.statements() as conn:
                await self._broker.announce(conn, {e.job.queue for e in entries if e.job.id in accepted})
                return await recall(conn, keys) if keys else {}
        except LedgerUnavailable as error:
            log.warning("follow_up_failed", error=str(error), replays=len(keys))
            return {}
