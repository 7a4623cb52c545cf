"""The last word on a message, on the channel that delivered it. If that is gone, the message comes again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiormq.abc import DeliveredMessage

from accepted.broker.rabbitmq.connections import Failure

SETTLED_WITHIN = 5.0
"""Seconds for an ack to be on its way. aiormq queues them for a writer; one that waits for a place in that queue as the
connection closes would wait for ever, and keep its slot."""


async def ack(message: DeliveredMessage) -> None:
    async with _or_again():
        await message.channel.basic_ack(message.delivery_tag or 0, wait=False)


async def reject(message: DeliveredMessage) -> None:
    """Into `accepted.dead` with it."""
    async with _or_again():
        await message.channel.basic_reject(message.delivery_tag or 0, requeue=False, wait=False)


async def give_back(message: DeliveredMessage) -> None:
    """To its queue, for whoever has a slot."""
    async with _or_again():
        await message.channel.basic_reject(message.delivery_tag or 0, requeue=True, wait=False)


@contextlib.asynccontextmanager
async def _or_again() -> AsyncIterator[None]:
    with contextlib.suppress(Failure):
        async with asyncio.timeout(SETTLED_WITHIN):
            yield
