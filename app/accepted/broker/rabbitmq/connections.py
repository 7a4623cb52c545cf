"""Connections to RabbitMQ, and acks on them.

They are plain connections, not the "robust" kind: their user notices that one is gone, drops it whole and opens the
next. So there is one way to recover, and no half-restored state. An ack goes over the channel that delivered the
message; if that is gone, the message is delivered again.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage

from accepted.errors import BrokerUnavailable

HEARTBEAT = 8
"""Seconds. A dead broker is noticed after at most three heartbeats; RabbitMQ warns of false alarms below 5 s."""

CONNECT_TIMEOUT = 5.0

Failure = Exception
"""What calls on a closing or closed connection raise. aiormq raises a bare `Exception` for calls that wait
while the connection is closed normally, so nothing narrower catches it."""


class Connector:
    """Opens connections to the nodes of a cluster, round robin."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = itertools.cycle(urls)
        self._tries = len(urls)

    async def open(self, name: str) -> AbstractConnection:
        """A connection to the first node that answers. Raises `BrokerUnavailable`."""
        for url in itertools.islice(self._urls, self._tries):
            with contextlib.suppress(Failure):
                return await aio_pika.connect(
                    url,
                    timeout=CONNECT_TIMEOUT,
                    heartbeat=HEARTBEAT,
                    client_properties={"connection_name": f"accepted {name}"},
                )
        raise BrokerUnavailable("no broker node answers")


async def close_quietly(connection: AbstractConnection) -> None:
    """Close a connection that may be broken in any way, within a second."""
    with contextlib.suppress(Failure):
        async with asyncio.timeout(1):
            await connection.close()


SENT_WITHIN = 5.0
"""Seconds to send an ack. aiormq queues acks for a writer; one that waits for a place in that queue while the
connection closes would wait for ever, and keep its slot."""


async def ack(message: DeliveredMessage) -> None:
    """Ack the message."""
    async with _or_delivered_again():
        await message.channel.basic_ack(message.delivery_tag or 0, wait=False)


async def reject(message: DeliveredMessage) -> None:
    """Reject the message into `accepted.dead`."""
    async with _or_delivered_again():
        await message.channel.basic_reject(message.delivery_tag or 0, requeue=False, wait=False)


async def give_back(message: DeliveredMessage) -> None:
    """Return the message to its queue."""
    async with _or_delivered_again():
        await message.channel.basic_reject(message.delivery_tag or 0, requeue=True, wait=False)


@contextlib.asynccontextmanager
async def _or_delivered_again() -> AsyncIterator[None]:
    with contextlib.suppress(Failure):
        async with asyncio.timeout(SENT_WITHIN):
            yield
