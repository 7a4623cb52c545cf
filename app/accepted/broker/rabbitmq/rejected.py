"""Looking into `accepted.dead` without taking anything out of it.

A message is fetched, read and given back. On a quorum queue each return counts, and RabbitMQ from 4.0 on drops a
message after 20 of them (3.10 knows no such limit, and the queue's arguments cannot be changed once it is there). So
one that was returned often is put in afresh, confirmed, before the old one is acked: dying in between doubles a
message that somebody has to look at, and loses none.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from accepted.broker.base import Rejected, RejectedMessage
from accepted.broker.rabbitmq.topology import DEAD_QUEUE, queue_of

DEADLINE = 5.0
"""Seconds for one look."""

WORN = 10
"""Returns after which a message is put in afresh; half of what RabbitMQ 4 allows."""

SHOWN = 1024
"""Bytes of a body that are shown. A reference has 70."""

_COUNT = "x-delivery-count"


async def peek(connection: AbstractConnection, most: int) -> Rejected:
    """How many messages there are, and the oldest `most` of them. One body at a time is held."""
    async with asyncio.timeout(DEADLINE), connection.channel(on_return_raises=True) as channel:
        queue = await channel.declare_queue(DEAD_QUEUE, passive=True)
        count = queue.declaration_result.message_count or 0
        found: list[RejectedMessage] = []
        last: AbstractIncomingMessage | None = None
        for _ in range(min(most, count)):
            message = await queue.get(fail=False)
            if message is None:
                break
            found.append(_shown(message))
            if _returns(message) >= WORN:
                await _put_in_afresh(channel, message)
            else:
                last = message
        if last is not None:
            await last.nack(multiple=True, requeue=True)
    return Rejected(count, found)


async def _put_in_afresh(channel: AbstractChannel, message: AbstractIncomingMessage) -> None:
    copy = Message(
        message.body,
        headers={name: value for name, value in message.headers.items() if name != _COUNT},
        content_type=message.content_type,
        message_id=message.message_id,
        type=message.type,
        timestamp=message.timestamp,
        delivery_mode=DeliveryMode.PERSISTENT,
    )
    await channel.default_exchange.publish(copy, routing_key=DEAD_QUEUE, mandatory=True)
    await message.ack()


def _returns(message: AbstractIncomingMessage) -> int:
    count = message.headers.get(_COUNT)
    return count if isinstance(count, int) else 0


def _shown(message: AbstractIncomingMessage) -> RejectedMessage:
    death = _death(message.headers)
    keys = death.get("routing-keys")
    at = death.get("time")
    return RejectedMessage(
        reason=str(death.get("reason", "unknown")),
        queue=queue_of(str(death["queue"])) if "queue" in death else None,
        routing_key=str(keys[0]) if isinstance(keys, list) and keys else message.routing_key,
        message_id=message.message_id,
        rejected_at=at.replace(tzinfo=at.tzinfo or UTC) if isinstance(at, datetime) else None,
        body=message.body[:SHOWN].decode(errors="replace"),
        truncated=len(message.body) > SHOWN,
    )


def _death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the broker noted as it dead-lettered the message, the latest time; nothing if somebody put it there."""
    deaths = headers.get("x-death")
    return deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
