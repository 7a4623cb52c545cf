"""Connections to RabbitMQ, and acks on them.

They are plain connections, not the "robust" kind: their user notices that one is gone, drops it whole and opens the
next. So there is one way to recover, and no half-restored state. An ack goes over the channel that delivered the
message; if that is gone, the message is delivered again.
"""

import asyncio
import contextlib
import itertools
import time
import traceback
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, cast

import aio_pika
import aiormq
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel, DeliveredMessage

from accepted.broker.rabbitmq import frames
from accepted.domain.network.servers import AmqpUrl, first_line, refusal
from accepted.errors import BrokerUnavailable

SETTING = "ACCEPTED_BROKER_URL"

HEARTBEAT = 8
"""Seconds. A dead broker is noticed after at most three heartbeats; RabbitMQ warns of false alarms below 5 s."""

CONNECT_TIMEOUT = 5.0

LONGEST_PAUSE = 10.0
"""Seconds between two tries to log in, when the broker goes on refusing; the first is 1 s."""

Failure = Exception
"""What calls on a closing or closed connection raise. aiormq raises a bare `Exception` for calls that wait
while the connection is closed normally, so nothing narrower catches it."""


REFUSED = (
    aiormq.exceptions.AuthenticationError,
    aiormq.exceptions.ProbableAuthenticationError,
    aiormq.exceptions.ConnectionNotAllowed,
    aiormq.exceptions.ConnectionClosed,
)
"""What a node answers to a login or a virtual host that it does not admit."""


class Connector:
    """Opens connections to the nodes of a cluster, round robin."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = itertools.cycle(urls)
        self._tries = len(urls)
        self._refusal = ""
        self._pause = 0.0
        self._not_before = 0.0

    async def open(self, name: str) -> AbstractConnection:
        """A connection to the first node that answers.

        Raises `BrokerUnavailable`, which says in one line what each node answered, and what to do. While every node
        refuses the user or the virtual host, only an operator can help, and the nodes are asked less and less often.
        """
        if time.monotonic() < self._not_before:
            raise BrokerUnavailable(self._refusal)
        answers: list[str] = []
        refused = True
        for url in itertools.islice(self._urls, self._tries):
            try:
                connection = await _connect(url, name)
            except Failure as error:
                answers.append(f"{AmqpUrl.parse(url)}: {_answer(error)}")
                refused = refused and (isinstance(error, REFUSED) or bool(_closing(error)))
            else:
                self._pause = 0.0
                return connection
        self._refusal = "; ".join(answers)
        self._pause = min(max(2 * self._pause, 1.0), LONGEST_PAUSE) if refused else 0.0
        self._not_before = time.monotonic() + self._pause
        raise BrokerUnavailable(self._refusal)


async def _connect(url: str, name: str) -> AbstractConnection:
    heartbeat: dict[str, Any] = {} if AmqpUrl.parse(url).heartbeat else {"heartbeat": HEARTBEAT}
    properties: dict[str, Any] = {"connection_name": f"accepted {name}"}
    opening = aio_pika.connect(url, timeout=CONNECT_TIMEOUT, client_properties=properties, **heartbeat)
    connection: AbstractConnection = await opening
    return connection


def _answer(error: Exception) -> str:
    said = _closing(error)
    if said or isinstance(error, REFUSED):
        return f"{said or first_line(error)}; correct the user, the password or the virtual host in {SETTING}"
    return refusal(error.__cause__ if isinstance(error.__cause__, OSError) else error, SETTING)


def _closing(error: Exception) -> str:
    """What the broker said as it closed the connection, if it did instead of opening the virtual host.

    aiormq raises only that it had expected another frame; the frame is left among the variables of its function.
    """
    if isinstance(error, aiormq.exceptions.InvalidFrameError):
        for raising, _ in traceback.walk_tb(error.__traceback__):
            if isinstance(frame := raising.f_locals.get("frame"), aiormq.spec.Connection.Close):
                return str(frame.reply_text)
    return ""


async def close_quietly(connection: AbstractConnection) -> None:
    """Close a connection that may be broken in any way, within a second."""
    with contextlib.suppress(Failure):
        async with asyncio.timeout(1):
            await connection.close()


SENT_WITHIN = 5.0
"""Seconds to send an ack. aiormq queues acks for a writer; one that waits for a place in that queue while the
connection closes would wait for ever, and keep its slot."""


async def ack(messages: Iterable[DeliveredMessage]) -> None:
    """Ack the messages, those of one channel in one write."""
    tags: dict[AbstractChannel, list[int]] = {}
    for message in messages:
        tags.setdefault(message.channel, []).append(message.delivery_tag or 0)
    for channel, some in tags.items():
        async with _or_delivered_again():
            await frames.ack(cast(aiormq.Channel, channel), some)


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
