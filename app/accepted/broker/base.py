"""What a broker is: it carries references to jobs from the ledger to the workers.

A reference may be lost, doubled or late: only the ledger says what a job is. A broker receives, acks and rejects
messages; it claims nothing.

To add a broker: implement `Broker` and `Subscription` in a module or folder of its own beside `postgres` and
`rabbitmq`, choose it by its URL in `create_broker` (`accepted/broker/__init__.py`), admit the URL in `broker_url` of
`accepted/settings.py`, and add it to the `harness` fixture of `tests/integration/conftest.py`, which runs the suite in
`tests/integration/broker/test_broker_conformance.py` on every broker.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from uuid import UUID

import msgspec

from accepted.domain.references import JobRef
from accepted.storage.db.statements import Connection


class ReceivedMessage(msgspec.Struct, frozen=True):
    """A reference that was received: (job id, attempts so far). With `receipt` the broker acks it."""

    reference: tuple[UUID, int]
    receipt: object


class Subscription(Protocol):
    """What one worker receives from its queues. It claims nothing: `accepted.services.jobs.claiming` does."""

    @property
    def queues(self) -> list[str]:
        """The queues served."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        ...

    def serve(self, queues: Sequence[str]) -> None:
        """The queues to receive from; may be called again whenever they change."""
        ...

    async def run(self) -> None:
        """Keep the subscription alive until cancelled: connect, watch, reconnect."""
        ...

    def receive(self, limit: int) -> AbstractAsyncContextManager[list[ReceivedMessage]]:
        """Wait for work; the block claims it. Returns early, with nothing, once it is stopped, or after `poll_now`.

        RabbitMQ: between 1 and `limit` messages; if the block raises, a later `receive` returns them again. The ledger:
        no messages, once a notification came, or for the next poll.
        """
        ...

    def poll_now(self) -> None:
        """Let the next `receive` return at once, if need be with nothing: rows may be ready in the ledger."""
        ...

    async def ack(self, messages: Iterable[ReceivedMessage]) -> None:
        """Ack each message, once. Never raises; at worst they are delivered again."""
        ...

    async def reject(self, message: ReceivedMessage) -> None:
        """Keep the message for people to see, and do not deliver it again. Never raises."""
        ...

    async def stop(self) -> None:
        """Receive nothing more; what was received and not claimed goes back. A waiting `receive` returns."""
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
        """A worker's subscription, with at most `slots` messages that are not acked."""
        ...

    async def depths(self, queues: Iterable[str]) -> dict[str, int]:
        """How many references wait on each queue. Raises `BrokerUnavailable`."""
        ...

    async def clear(self, queue: str, beyond: int) -> int:
        """Drop the messages of a queue that no worker consumes, if there are more than `beyond`. Returns how many.

        The reconciler publishes those again that were not stale. Raises `BrokerUnavailable`.
        """
        ...

    async def remove(self, queue: str) -> bool:
        """Remove the queue, whose workers were told to leave it. False if it stays: it is in use, or holds messages.

        Never raises: a broker that is away keeps it.
        """
        ...

    async def count_rejected(self) -> int:
        """How many messages the workers rejected and the broker keeps. Raises `BrokerUnavailable`."""
        ...

    async def check(self) -> str:
        """`ok`, or what is wrong in one line, without a secret, for /readyz. Never raises."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


async def checked(broker: Broker, within: float) -> str:
    """What `broker.check` says, or that the broker did not answer within so many seconds. Never raises."""
    try:
        async with asyncio.timeout(within):
            return await broker.check()
    except TimeoutError:
        return f"the broker did not answer within {within:g} s"
