"""The claim: queued -> running. Workers and requests for leases claim here. A worker's claim is one statement, which
commits itself.

A worker receives through its subscription. RabbitMQ delivers references, and the claim takes the outbox rows that they
refer to. Where the ledger is the broker there are no messages: the claim takes the next rows of the outbox itself. A
request for leases does the same, for one tenant and its types.

Dying before the COMMIT loses nothing: the messages are delivered again. After it the lease runs out, and the rescuer
ends the attempt.
"""

from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker, ReceivedMessage
from accepted.domain.job import Job
from accepted.metrics import MESSAGES_DROPPED
from accepted.storage import leases
from accepted.storage.attempts import claims
from accepted.storage.attempts.claims import Claim
from accepted.storage.db.engine import reading
from accepted.storage.db.statements import Connection, Direct
from accepted.storage.jobs.reading import jobs_by_id
from accepted.storage.leases import Leased

log = structlog.get_logger(__name__)


class Delivery(msgspec.Struct, frozen=True):
    """A claimed job, and the message to ack once its outcome is committed; None where the ledger is the broker."""

    claim: Claim
    message: ReceivedMessage | None


class LeasedJob(msgspec.Struct, frozen=True):
    """A lease, and its job as read in the transaction of the claim."""

    leased: Leased
    job: Job


class _Sorted(msgspec.Struct, frozen=True):
    """What a claim made of messages: deliveries, those to ack, each with its label of `MESSAGES_DROPPED`, and those to
    reject."""

    deliveries: list[Delivery]
    dropped: Sequence[tuple[ReceivedMessage, str]] = ()
    unknown: Sequence[ReceivedMessage] = ()


class Claimer:
    """Claims for one worker what its subscription receives, of the types that it serves (None: of any).

    What it receives of other types is set aside in the ledger, without an attempt, and its message is acked.
    """

    def __init__(
        self, engine: AsyncEngine, broker: Broker, worker_id: UUID, slots: int, types: list[str] | None = None
    ) -> None:
        self.subscription = broker.subscribe(worker_id, slots)
        self._engine = engine
        self._ledger = Direct(engine)
        self._is_ledger = broker.is_ledger
        self._worker_id = worker_id
        self._types = types
        self._set_aside: list[tuple[str, str]] = []
        self._set_aside_first = False

    def serve(self, queues: Sequence[str]) -> None:
        """The queues to claim from; may be called again whenever they change."""
        self.subscription.serve(queues)

    async def run(self) -> None:
        """Keep the subscription alive until cancelled."""
        try:
            await self.subscription.run()
        finally:
            await self._ledger.close()

    async def claim(self, limit: int) -> list[Delivery]:
        """Wait for work, and claim between 1 and `limit` jobs. Raises `LedgerUnavailable`.

        Empty once the subscription is stopped. Do not cancel it: its caller must learn of a claim that commits.
        """
        while True:
            async with self.subscription.receive(limit) as messages:
                if self.subscription.stopped and not messages:
                    return []
                if self._is_ledger:
                    found = await self._claim_next(limit)
                elif messages:
                    found = await self._claim_received(messages)
                else:
                    found = await self._claim_polled(limit)
            await self._drop(found)
            if found.deliveries:
                return found.deliveries

    async def look_for_set_aside(self) -> None:
        """See whether jobs wait that workers without a handler for them have set aside, and that this worker serves.

        The next claims are of these, too. Raises `LedgerUnavailable`.
        """
        async with reading(self._engine) as conn:
            kinds = await claims.unserved_kinds(conn)
        served = set(self.subscription.queues)
        self._set_aside = [
            (queue, type_) for queue, type_ in kinds
            if queue in served and (self._types is None or type_ in self._types)
        ]  # fmt: skip
        if self._set_aside:
            self.subscription.poll_now()

    async def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Ack the messages of these: their outcomes are committed. Never raises; at worst they are delivered again."""
        await self.subscription.ack([each.message for each in deliveries if each.message is not None])

    async def stop(self) -> None:
        """Receive nothing more; what was received and not claimed goes back. A waiting `claim` returns."""
        await self.subscription.stop()

    async def _claim_next(self, limit: int) -> _Sorted:
        if self._set_aside:
            claimed, set_aside = await self._claim_next_and_set_aside(limit)
        else:
            async with self._ledger.statements() as conn:
                met = await claims.claim_next(conn, self._worker_id, self.subscription.queues, limit, self._types)
            claimed, set_aside = met, bool(met.set_aside)
        if claimed or set_aside:
            self.subscription.poll_now()
        return _Sorted([Delivery(claim, None) for claim in claimed])

    async def _claim_next_and_set_aside(self, limit: int) -> tuple[list[Claim], bool]:
        """Ready jobs, and those that were set aside: in turn first, so that neither has to wait for the others."""
        self._set_aside_first = not self._set_aside_first
        async with self._ledger.transaction() as conn:
            claimed = await self._claim_set_aside(conn, limit) if self._set_aside_first else []
            left = limit - len(claimed)
            met = await claims.claim_next(conn, self._worker_id, self.subscription.queues, left, self._types)
            claimed = [*claimed, *met]
            if not self._set_aside_first:
                claimed += await self._claim_set_aside(conn, limit - len(claimed))
            await conn.commit()
        return claimed, bool(met.set_aside)

    async def _claim_set_aside(self, conn: Connection, limit: int) -> list[Claim]:
        if not self._set_aside or limit <= 0:
            return []
        claimed = await claims.claim_unserved(conn, self._worker_id, self._set_aside, limit)
        if not claimed:
            self._set_aside = []
        return claimed

    async def _claim_polled(self, limit: int) -> _Sorted:
        """The subscription was told to poll, and brings no messages: jobs were set aside."""
        async with self._ledger.transaction() as conn:
            found = await self._claim_set_aside(conn, limit)
            await conn.commit()
        if found:
            self.subscription.poll_now()
        return _Sorted([Delivery(claim, None) for claim in found])

    async def _claim_received(self, messages: list[ReceivedMessage]) -> _Sorted:
        received = {message.reference: message for message in messages}
        async with self._ledger.statements() as conn:
            claimed = await claims.claim_refs(conn, self._worker_id, list(received), self._types)
            taken = {(claim.job.id, claim.job.attempt - 1): claim for claim in claimed}
            left = [message for message in messages if message.reference not in taken]
            known = await claims.known(conn, [message.reference[0] for message in left]) if left else set()
        doubles = [m for m in messages if m.reference in taken and m is not received[m.reference]]
        return _Sorted(
            [Delivery(claim, received[reference]) for reference, claim in taken.items()],
            [
                *(
                    (m, "unserved" if m.reference[0] in claimed.set_aside else "stale")
                    for m in left
                    if m.reference[0] in known
                ),
                *((m, "duplicate") for m in doubles),
            ],
            [m for m in left if m.reference[0] not in known],
        )

    async def _drop(self, found: _Sorted) -> None:
        """Ack what leads to nothing more, and reject references to jobs that the ledger does not have."""
        for _, reason in found.dropped:
            MESSAGES_DROPPED.labels(reason).inc()
        await self.subscription.ack([message for message, _ in found.dropped])
        for message in found.unknown:
            MESSAGES_DROPPED.labels("unknown").inc()
            log.warning("message_rejected", reason="unknown")
            await self.subscription.reject(message)


async def claim_leases(
    ledger: Direct, *, name: str, tenant: str, queue: str, types: Sequence[str] | None, limit: int
) -> list[LeasedJob]:
    """Claim up to `limit` of the tenant's jobs that are ready on `queue`, of these types (None: of any).

    Each gets a lease, whose worker row is called `name`. Raises `LedgerUnavailable`.
    """
    async with ledger.transaction() as conn:
        leased = await leases.claim(conn, name=name, tenant=tenant, queue=queue, types=types, limit=limit)
        jobs = await jobs_by_id(conn, [one.lease.job_id for one in leased]) if leased else {}
        await conn.commit()
    return [LeasedJob(one, jobs[one.lease.job_id]) for one in leased]
