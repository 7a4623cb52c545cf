"""The ledger as the broker: workers claim from the outbox, woken by NOTIFY, with polling as the backstop."""

import asyncio
from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Delivery, Subscription
from accepted.domain.references import JobRef
from accepted.storage.attempts.claims import claim_next
from accepted.storage.db.notifications import EVERYTHING, Listener
from accepted.storage.db.statements import Connection, Direct, Statement

CHANNEL = "accepted_ready"
POLL = 1.0
"""Seconds between polls of the outbox when no notification comes."""

_NOTIFY = Statement("SELECT pg_notify(:channel, :queues)")


class PostgresBroker:
    """A row is published by the commit that writes it: there is nothing else to publish to."""

    is_ledger = True

    def __init__(self, engine: AsyncEngine, url: str) -> None:
        self._engine = engine
        self._url = url

    async def announce(self, conn: Connection, queues: Iterable[str]) -> None:
        """One notification a transaction, never one a row: NOTIFY takes a database-wide lock at commit."""
        names = sorted(set(queues))
        if names:
            payload = ",".join(names)
            await _NOTIFY.rows(conn, channel=CHANNEL, queues=payload if len(payload) < 7000 else EVERYTHING)

    async def publish(self, refs: Sequence[JobRef]) -> list[JobRef]:
        return list(refs)

    def subscribe(self, worker_id: UUID, slots: int) -> Subscription:
        return PostgresSubscription(self._engine, self._url, worker_id)

    async def depths(self, queues: Iterable[str]) -> dict[str, int]:
        """Nothing can be lost, so there is nothing to compare with."""
        return {}

    async def clear(self, queue: str, beyond: int) -> int:
        """A claimed row is gone, whoever claimed it."""
        return 0

    async def count_rejected(self) -> int:
        """An outbox row is written with its job, so no claim can be malformed."""
        return 0

    async def check(self) -> str:
        return "ok"

    async def close(self) -> None:
        return None


class PostgresSubscription:
    """Claims with SKIP LOCKED; a worker that is not asking holds nothing."""

    def __init__(self, engine: AsyncEngine, url: str, worker_id: UUID) -> None:
        self._ledger = Direct(engine)
        self._worker_id = worker_id
        self._queues: list[str] = []
        self._notified = asyncio.Event()
        self._stopped = False
        self._listener = Listener(url, CHANNEL, self._heard)

    def serve(self, queues: Sequence[str]) -> None:
        if set(queues) != set(self._queues):
            self._queues = sorted(queues)
            self._notified.set()

    async def run(self) -> None:
        try:
            await self._listener.run()
        finally:
            await self._ledger.close()

    async def claim(self, most: int) -> list[Delivery]:
        while not self._stopped:
            self._notified.clear()
            async with self._ledger.transaction() as conn:
                claims = await claim_next(conn, self._worker_id, self._queues, most)
                await conn.commit()
            if claims:
                return [Delivery(claim, None) for claim in claims]
            await self._wait_for_notification()
        return []

    async def settle(self, deliveries: Iterable[Delivery]) -> None:
        return None

    async def stop(self) -> None:
        self._stopped = True
        self._notified.set()

    async def _wait_for_notification(self) -> None:
        try:
            async with asyncio.timeout(POLL):
                await self._notified.wait()
        except TimeoutError:
            return

    def _heard(self, payload: str) -> None:
        if payload == EVERYTHING or not set(payload.split(",")).isdisjoint(self._queues):
            self._notified.set()
