"""The ledger as the broker: workers claim from the outbox, woken by NOTIFY, with polling as the backstop."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import ReceivedMessage, Subscription
from accepted.concurrency import set_within
from accepted.domain.references import JobRef
from accepted.storage.db.notifications import EVERYTHING, Listener
from accepted.storage.db.statements import Connection, Statement

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
        return PostgresSubscription(self._url)

    async def depths(self, queues: Iterable[str]) -> dict[str, int]:
        """Nothing can be lost, so there is nothing to compare with."""
        return {}

    async def clear(self, queue: str, beyond: int) -> int:
        """There are no stale references: a claim deletes its row."""
        return 0

    async def remove(self, queue: str) -> bool:
        """The ledger's row is all there is."""
        return True

    async def count_rejected(self) -> int:
        """An outbox row is written with its job, so no claim can be malformed."""
        return 0

    async def check(self) -> str:
        return "ok"

    async def close(self) -> None:
        return None


class PostgresSubscription:
    """Waits for notifications of rows on its queues, and polls. A worker that does not ask holds nothing."""

    def __init__(self, url: str) -> None:
        self.queues: list[str] = []
        self.stopped = False
        self._ready = asyncio.Event()
        self._ready.set()
        self._listener = Listener(url, CHANNEL, self._on_notification)

    def serve(self, queues: Sequence[str]) -> None:
        if set(queues) != set(self.queues):
            self.queues = sorted(queues)
            self._ready.set()

    async def run(self) -> None:
        await self._listener.run()

    @asynccontextmanager
    async def receive(self, limit: int) -> AsyncIterator[list[ReceivedMessage]]:
        """Clears `_ready` first, so that no notification during the claim is lost."""
        await set_within(POLL, self._ready)
        self._ready.clear()
        try:
            yield []
        except BaseException:
            self._ready.set()  # the rows are still there
            raise

    def poll_now(self) -> None:
        self._ready.set()

    async def ack(self, messages: Iterable[ReceivedMessage]) -> None:
        """There are no messages: the claim has deleted the outbox row."""

    async def reject(self, message: ReceivedMessage) -> None:
        """There are no messages."""

    async def stop(self) -> None:
        self.stopped = True
        self._ready.set()

    def _on_notification(self, payload: str) -> None:
        if payload == EVERYTHING or not set(payload.split(",")).isdisjoint(self.queues):
            self._ready.set()
