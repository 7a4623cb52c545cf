"""The broker: carries references from the ledger to the workers. One protocol with two implementations.

A reference may be lost, doubled or late: only the ledger says what a job is. Both implementations are
held to the same conformance suite in `tests/integration/test_broker_conformance.py`.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from accepted.domain.references import JobRef
from accepted.storage.attempts.claims import Claim
from accepted.storage.db.statements import Connection


class Delivery(msgspec.Struct, frozen=True):
    """A claimed job, and the receipt by which its message is acked once its outcome is committed."""

    claim: Claim
    receipt: object


class Subscription(Protocol):
    """One worker's subscription to its queues."""

    def serve(self, queues: Sequence[str]) -> None:
        """The queues to take from; may be called again whenever they change."""
        ...

    async def run(self) -> None:
        """Keep the subscription alive until cancelled: connect, watch, reconnect."""
        ...

    async def claim(self, most: int) -> list[Delivery]:
        """Wait for work, and claim between 1 and `most` jobs of it. Raises `LedgerUnavailable`.

        Empty once the subscription is stopped. Not to be cancelled: a claim that commits must be heard of.
        """
        ...

    async def settle(self, deliveries: Iterable[Delivery]) -> None:
        """Ack these: their outcomes are committed. Never raises; at worst they are delivered again."""
        ...

    async def stop(self) -> None:
        """Take nothing more; what was delivered and not claimed goes back. A waiting `claim` returns."""
        ...


class Broker(Protocol):
    """What submitters, workers and the scheduler ask of a broker."""

    @property
    def is_ledger(self) -> bool:
        """True if the ledger itself is the broker: then the commit of an outbox row publishes it."""
        ...

    async def announce(self, conn: Connection, queues: Iterable[str]) -> None:
        """Notify workers of published rows: in the transaction that publishes them, or right after it."""
        ...

    async def publish(self, refs: Sequence[JobRef]) -> list[JobRef]:
        """Publish references, within a deadline; returns those that were confirmed.

        A reference that was not confirmed may have been published all the same.
        """
        ...

    def subscribe(self, worker_id: UUID, slots: int) -> Subscription:
        """A worker's end, which will never hold more than `slots` jobs that are not settled."""
        ...

    async def depths(self, queues: Iterable[str]) -> dict[str, int]:
        """How many references wait on each queue. Raises `BrokerUnavailable`."""
        ...

    async def clear(self, queue: str, beyond: int) -> int:
        """Throw away what waits on a queue that no worker consumes, if that is more than `beyond`. Returns how much.

        What of it was not stale is lost by that, and published again by the reconciler. Raises `BrokerUnavailable`.
        """
        ...

    async def count_rejected(self) -> int:
        """How many messages the workers rejected and the broker keeps. Raises `BrokerUnavailable`."""
        ...

    async def check(self) -> str:
        """`ok`, or in a word what is wrong, for /readyz. Never raises."""
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...
