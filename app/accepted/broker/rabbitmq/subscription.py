"""A worker's subscription to its queues on RabbitMQ: receives references, acks and rejects them.

Prefetch equals the worker's slots, so with one queue no message waits for a slot. A worker with short jobs asks for
more messages than it has slots; then prefetch is `AHEAD` more. Quorum queues have no limit over several queues: what
arrives and is not asked for is given back within `HOLD`. From then on messages are fetched one by one, for free slots
and round robin over the queues, so a worker with long jobs hoards no messages and starves no queue. It consumes again
once the queues are empty, or once fetching leaves slots free.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import cast

import aiormq
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import logs
from accepted.broker.base import ReceivedMessage
from accepted.broker.rabbitmq.connections import Connector, Failure, ack, close_quietly, give_back, reject
from accepted.broker.rabbitmq.prefetch import HOLD, Prefetch
from accepted.broker.rabbitmq.received import delivered, read
from accepted.broker.rabbitmq.round_robin import Buffer
from accepted.broker.rabbitmq.topology import Declarer, declare_base, queue_name, queue_of
from accepted.concurrency import Coalescer, cancel_requested, set_within
from accepted.errors import BrokerUnavailable, LedgerUnavailable
from accepted.storage.db.engine import reading
from accepted.storage.jobs import outbox

WATCH_EVERY = 1.0
DEAF = 5.0
"""Seconds without a message, with a free slot, after which the ledger is asked whether one should have come. Nothing
else shows a consumer that RabbitMQ wrongly takes for served: it counts messages as unacked that it never sent."""

ANSWERED_WITHIN = 10.0
"""Seconds for the broker to declare, consume or fetch."""

RECONNECT = 1.0

MOST_ACKS = 1000
"""Acks in one write: 21 bytes each."""


class RabbitSubscription:
    """Consumes over one connection, which it drops whole after any error; then it opens the next.

    Once stopped it receives nothing more, and stays connected for acks until `run` is cancelled.
    """

    def __init__(self, connector: Connector, engine: AsyncEngine, slots: int) -> None:
        self._connector = connector
        self._engine = engine
        self._prefetch = Prefetch(slots)
        self._declarer = Declarer()
        self._queues: deque[str] = deque()
        self._declared: set[str] = set()
        self._consumers: dict[str, str] = {}
        self._channel: aiormq.Channel | None = None
        self._buffer = Buffer()
        self._ack: Coalescer[ReceivedMessage, None] = Coalescer(_ack, max_batch=MOST_ACKS)
        self._arrived = asyncio.Event()
        self._wake = asyncio.Event()
        self._oldest = 0.0
        self._listening_since = 0.0
        self._free_since = math.inf
        self._asking_for = 0
        self._paused = False
        self._polled = False
        self._poll_comes_first = True
        self.stopped = False

    @property
    def queues(self) -> list[str]:
        return sorted(self._queues)

    def serve(self, queues: Sequence[str]) -> None:
        if set(queues) != set(self._queues):
            self._queues = deque(sorted(queues))
            self._wake.set()

    async def run(self) -> None:
        while not cancel_requested():
            await self._consume_until_lost()
            await asyncio.sleep(RECONNECT)

    @contextlib.asynccontextmanager
    async def receive(self, limit: int) -> AsyncIterator[list[ReceivedMessage]]:
        """Goes on fetching up to `limit` while the block claims."""
        self._asking_for = limit
        self._listening_since = time.monotonic()
        if not self._paused:
            self._prefetch.asked_for(limit)
            if self._prefetch.outdated:
                self._wake.set()
        try:
            messages = await self._next(limit)
            try:
                yield messages
            except BaseException:
                self._buffer.put_back(delivered(message) for message in messages)
                raise
        finally:
            self._asking_for = 0

    def poll_now(self) -> None:
        """The next `receive` brings no messages, or the one after it: messages and polls take turns."""
        self._polled = True
        self._arrived.set()

    async def ack(self, messages: Iterable[ReceivedMessage]) -> None:
        for sent in [self._ack(message) for message in messages]:
            await sent

    async def reject(self, message: ReceivedMessage) -> None:
        await reject(delivered(message))

    async def stop(self) -> None:
        self.stopped = True
        self._arrived.set()
        await self._pause()

    async def _anything(self) -> bool:
        """Wait for a delivery, or for `poll_now`; False once the subscription is stopped."""
        self._free_since = min(self._free_since, time.monotonic())
        while not self._buffer and not self.stopped and not self._polled:
            self._arrived.clear()
            if self._paused:
                self._wake.set()
            await self._arrived.wait()
        return not self.stopped

    async def _next(self, limit: int) -> list[ReceivedMessage]:
        """Wait for up to `limit` readable messages. An empty list: the subscription is stopped, or was told to poll."""
        messages: list[ReceivedMessage] = []
        while not messages and await self._anything():
            if self._polled and (self._poll_comes_first or not self._buffer):
                self._polled = self._poll_comes_first = False
                break
            self._poll_comes_first = True
            batch = self._buffer.take(limit)
            self._oldest = time.monotonic()
            if len(batch) == limit:
                self._free_since = math.inf
            messages = [one for message in batch if (one := await read(message)) is not None]
        return messages

    async def _consume_until_lost(self) -> None:
        try:
            await self._consume()
        except Failure as error:
            logs.outage("consumer_lost", error)
        self._forget()

    async def _consume(self) -> None:
        connection = await self._connector.open("consumer")
        try:
            channel = connection.channel(publisher_confirms=False)
            await channel.initialize()
            self._channel = cast(aiormq.Channel, await channel.get_underlay_channel())
            async with connection.channel() as base:
                await declare_base(base)
            await self._watch(connection, self._channel)
        finally:
            await close_quietly(connection)

    async def _watch(self, connection: AbstractConnection, underlay: aiormq.Channel) -> None:
        """Consume new queues, leave old ones, raise if a consumer is lost, give back messages that wait too long."""
        while not cancel_requested():
            self._wake.clear()
            if underlay.is_closed or connection.is_closed:
                raise BrokerUnavailable("the channel is closed")
            if any(tag not in underlay.consumers for tag in self._consumers.values()):
                raise BrokerUnavailable("connected, but a consumer was cancelled")
            if self._paused and self._asking_for:
                await self._fetch(connection, underlay)
            if not self._paused:
                if self._prefetch.outdated:
                    await self._leave(underlay)
                await self._subscribe(connection, underlay)
                await self._check_for_silence()
            hold = self._prefetch.hold
            if self._buffer and not self._asking_for and time.monotonic() - self._oldest > hold:
                await self._pause()
            await set_within(min(hold, WATCH_EVERY), self._wake)

    async def _leave(self, underlay: aiormq.Channel) -> None:
        """Cancel the consumers; those that are made next have another prefetch."""
        async with asyncio.timeout(ANSWERED_WITHIN):
            while self._consumers:
                await underlay.basic_cancel(self._consumers.popitem()[1])

    async def _subscribe(self, connection: AbstractConnection, underlay: aiormq.Channel) -> None:
        for queue in self._consumers.keys() - set(self._queues):
            self._declared.discard(queue)  # it may be deleted, and made again
            async with asyncio.timeout(ANSWERED_WITHIN):
                await underlay.basic_cancel(self._consumers.pop(queue))
        if self._queues and not self._consumers:
            async with asyncio.timeout(ANSWERED_WITHIN):
                await underlay.basic_qos(prefetch_count=self._prefetch.renewed())
        for queue in list(self._queues):
            if queue in self._consumers:
                continue
            async with asyncio.timeout(ANSWERED_WITHIN):
                if not await self._declare(connection, queue):
                    continue
                ok = await underlay.basic_consume(queue_name(queue), self._on_message)
            assert ok.consumer_tag is not None
            self._consumers[queue] = ok.consumer_tag
            self._listening_since = time.monotonic()

    async def _fetch(self, connection: AbstractConnection, underlay: aiormq.Channel) -> None:
        """Fetch messages round robin for the free slots. Consume again once all queues are empty or after `HOLD`."""
        empty = 0
        while len(self._buffer) < self._asking_for and not self.stopped:
            if empty >= len(self._queues) or time.monotonic() - self._free_since > HOLD:
                self._paused = False
                return
            queue = self._queues[0]
            self._queues.rotate(-1)
            async with asyncio.timeout(ANSWERED_WITHIN):
                if queue not in self._declared and not await self._declare(connection, queue):
                    empty += 1
                    continue
                message = await underlay.basic_get(queue_name(queue))
            if message.delivery_tag is None:
                empty += 1
            elif self.stopped:
                await give_back(message)
            else:
                empty = 0
                await self._on_message(message)

    async def _declare(self, connection: AbstractConnection, queue: str) -> bool:
        self._declared |= await self._declarer.declare(connection, [queue])
        return queue in self._declared

    async def _check_for_silence(self) -> None:
        """Raise if, by the ledger, messages were published for these queues, and none has come for `DEAF` seconds.

        A frozen worker may hold them until the broker notices. Then a new connection does not help; it costs only
        redeliveries that are stale.
        """
        now = time.monotonic()
        if not self._asking_for or self._buffer or now - self._listening_since < DEAF:
            return
        self._listening_since = now
        left = False
        with contextlib.suppress(LedgerUnavailable):
            async with reading(self._engine) as conn:
                left = await outbox.any_left(conn, list(self._consumers), DEAF)
        if left:
            raise BrokerUnavailable("connected, but published messages do not arrive")

    async def _pause(self) -> None:
        """Cancel the consumers, and give back messages for which no slot was free."""
        self._paused = True
        self._prefetch.reset()
        if (queue := queue_of(self._buffer.last or "")) in self._queues:
            self._queues.rotate(-1 - self._queues.index(queue))
        underlay, consumers, self._consumers = self._channel, self._consumers, {}
        if underlay is None or underlay.is_closed:
            return
        with contextlib.suppress(Failure):
            async with asyncio.timeout(5):
                for tag in consumers.values():
                    await underlay.basic_cancel(tag)
                while self._buffer:
                    (message,) = self._buffer.take(1)
                    await give_back(message)

    async def _on_message(self, message: DeliveredMessage) -> None:
        self._listening_since = time.monotonic()
        if not self._buffer:
            self._oldest = self._listening_since
        self._buffer.add(message)
        self._arrived.set()

    def _forget(self) -> None:
        """The connection is gone: its messages cannot be acked any more, and the broker delivers them again."""
        self._channel = None
        self._prefetch.reset()
        self._buffer.clear()
        self._consumers.clear()
        self._declared.clear()


async def _ack(messages: list[ReceivedMessage]) -> list[None]:
    await ack(map(delivered, messages))
    return [None] * len(messages)
