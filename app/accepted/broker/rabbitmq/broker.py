"""RabbitMQ as the broker: publishes with confirms over one connection; workers consume over their own."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import cast
from uuid import UUID

import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import logs
from accepted.broker.base import Subscription
from accepted.broker.rabbitmq import frames
from accepted.broker.rabbitmq.connections import CONNECT_TIMEOUT, Connector, Failure, close_quietly
from accepted.broker.rabbitmq.subscription import RabbitSubscription
from accepted.broker.rabbitmq.topology import DEAD_QUEUE, Declarer, declare_base, queue_name
from accepted.containment import RowErrors
from accepted.domain.references import JobRef
from accepted.errors import BrokerUnavailable, describe
from accepted.storage.db.statements import Connection

PUBLISH_DEADLINE = 5.0
"""Seconds for a batch to be confirmed. A broker under a memory alarm stops reading."""

RETRY_AFTER = 1.0
"""Seconds after a failed connection before the next is tried, so that a dead broker costs callers nothing."""

REDECLARE_AFTER = 0.5
"""Seconds before a deleted queue is declared again. Its consumers must know of the deletion by then: RabbitMQ moves the
others to the new queue, and counts messages as delivered to them (3.10.8: unacked, never sent)."""

REMOVE_WITHIN = 3.0
"""Seconds for the workers to leave a queue that is to be removed. They are notified, and otherwise poll every 2 s."""

ASK_AGAIN = 0.1
"""Seconds until it is asked again whether they have left."""


class RabbitBroker:
    """Publishes over one connection, which it opens on demand and drops whole after any error."""

    is_ledger = False

    def __init__(self, urls: Sequence[str], engine: AsyncEngine) -> None:
        self._connector = Connector(urls)
        self._engine = engine
        self._connection: AbstractConnection | None = None
        self._publishing: aiormq.Channel | None = None
        self._declarer = Declarer()
        self._declared: set[str] = set()
        self._opening = asyncio.Lock()
        self._not_before = 0.0
        self._errors = RowErrors("references")
        self._problem = ""

    async def announce(self, conn: Connection, queues: Iterable[str]) -> None:
        """Does nothing: RabbitMQ delivers the references once they are published, after the commit."""

    async def publish(self, refs: Sequence[JobRef]) -> list[JobRef]:
        if not refs:
            return []
        confirmed: list[JobRef] = []
        try:
            async with asyncio.timeout(PUBLISH_DEADLINE):
                returned = await self._send(refs, confirmed)
                if (
                    returned
                ):  # their queue was deleted; without a second try they would wait until the relay's hold ends
                    await asyncio.sleep(REDECLARE_AFTER)
                    await self._send(returned, confirmed)
        except Failure as error:
            logs.outage("publish_failed", error)
            await self._drop()
        return confirmed

    def subscribe(self, worker_id: UUID, slots: int) -> Subscription:
        return RabbitSubscription(self._connector, self._engine, slots)

    async def depths(self, queues: Iterable[str]) -> dict[str, int]:
        connection = await self._connected()
        found: dict[str, int] = {}
        for queue in queues:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT), connection.channel() as channel:
                    declared = await channel.declare_queue(queue_name(queue), passive=True)
                    found[queue] = declared.declaration_result.message_count or 0
            except aiormq.exceptions.ChannelNotFoundEntity:
                found[queue] = 0
                self._declared.discard(queue)
            except Failure as error:
                await self._drop()
                raise BrokerUnavailable("the broker did not answer") from error
        return found

    async def clear(self, queue: str, beyond: int) -> int:
        connection = await self._connected()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT), connection.channel() as channel:
                there = await channel.declare_queue(queue_name(queue), passive=True)
                found = there.declaration_result
                if found.consumer_count or (found.message_count or 0) <= beyond:
                    return 0
                return (await there.purge()).message_count or 0
        except aiormq.exceptions.ChannelNotFoundEntity:
            return 0
        except Failure as error:
            await self._drop()
            raise BrokerUnavailable("the broker did not answer") from error

    async def remove(self, queue: str) -> bool:
        """Waits up to `REMOVE_WITHIN` for the workers to leave.

        Quorum queues know neither if-empty nor if-unused. A reference that comes between the look and the deletion is
        published again by the reconciler.
        """
        name = queue_name(queue)
        try:
            async with asyncio.timeout(REMOVE_WITHIN):
                connection = await self._connected()
                while True:
                    async with connection.channel() as channel:
                        found = (await channel.declare_queue(name, passive=True)).declaration_result
                        if found.message_count:
                            return False
                        if not found.consumer_count:
                            await channel.queue_delete(name)
                            break
                    await asyncio.sleep(ASK_AGAIN)
        except aiormq.exceptions.ChannelNotFoundEntity:
            pass  # it is gone
        except Failure:
            return False
        self._declared.discard(queue)
        return True

    async def count_rejected(self) -> int:
        connection = await self._connected()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT), connection.channel() as channel:
                queue = await channel.declare_queue(DEAD_QUEUE, passive=True)
                return queue.declaration_result.message_count or 0
        except aiormq.exceptions.ChannelNotFoundEntity:
            return 0
        except Failure as error:
            await self._drop()
            raise BrokerUnavailable("the broker did not answer") from error

    async def check(self) -> str:
        try:
            await self._connected()
        except BrokerUnavailable as error:
            return str(error)
        return "ok"

    async def close(self) -> None:
        await self._drop()

    async def _send(self, refs: Sequence[JobRef], confirmed: list[JobRef]) -> list[JobRef]:
        """Publish, and add what is confirmed to `confirmed`. Returns the references whose queue does not exist.

        References that were refused (by a length limit, say), or whose queue cannot be declared, are in neither: they
        stay in the outbox.
        """
        channel, unusable = await self._ready({ref.queue for ref in refs})
        refs = [ref for ref in refs if ref.queue not in unusable]
        if not refs:
            return []
        returned: list[JobRef] = []
        for ref, one in zip(refs, await frames.publish(channel, refs), strict=True):
            error = one.exception()
            if error is None:
                confirmed.append(ref)
            elif isinstance(error, aiormq.exceptions.PublishError):
                self._declared.discard(ref.queue)
                returned.append(ref)
            elif isinstance(error, ValueError):
                with self._errors.contained(ref.message_id):
                    raise error
        return returned

    async def _ready(self, queues: set[str]) -> tuple[aiormq.Channel, set[str]]:
        """Declare the queues. Returns the channel to publish on, and the queues that cannot be declared."""
        connection = await self._connected()
        missing = queues - self._declared
        there = await self._declarer.declare(connection, missing) if missing else missing
        if self._publishing is None:
            raise BrokerUnavailable("another call has dropped the connection")
        self._declared |= there
        return self._publishing, missing - there

    async def _connected(self) -> AbstractConnection:
        async with self._opening:
            usable = self._publishing is not None and not self._publishing.is_closed
            if self._connection is not None and usable:
                return self._connection
            await self._drop()
            now = asyncio.get_running_loop().time()
            if now < self._not_before:
                raise BrokerUnavailable(self._problem)
            self._not_before = now + RETRY_AFTER
            try:
                connection = await self._connector.open("publisher")
            except BrokerUnavailable as error:
                self._problem = str(error)
                raise
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await self._prepare(connection)
            except Failure as error:
                await close_quietly(connection)
                self._problem = describe(error)
                raise BrokerUnavailable(self._problem) from error
            return connection

    async def _prepare(self, connection: AbstractConnection) -> None:
        async with connection.channel() as channel:
            await declare_base(channel)
        publishing: AbstractChannel = connection.channel(publisher_confirms=True, on_return_raises=True)
        await publishing.initialize()
        self._publishing = cast(aiormq.Channel, await publishing.get_underlay_channel())
        self._connection = connection
        self._keep = publishing  # strong reference: the wrapper closes its channel when it is collected

    async def _drop(self) -> None:
        connection, self._connection, self._publishing = self._connection, None, None
        self._declared.clear()
        if connection is not None:
            await close_quietly(connection)
