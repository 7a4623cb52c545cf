"""What the worker is held against: aio-pika alone, which takes each message and acks it.

The messages are those of contract section 7: persistent, with the same properties, on a quorum queue.
"""

import asyncio
import sys
import time
from uuid import uuid4

import aio_pika
import uvloop
from aio_pika.abc import AbstractChannel

from accepted.broker.rabbitmq.topology import QUORUM
from accepted.domain.references import JobRef

WINDOW = 1000  # messages on their way to the broker at once


async def fill(url: str, queue: str, count: int) -> None:
    """Put `count` messages on a new queue, and wait until all are confirmed."""
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(queue, durable=True, arguments=QUORUM)
        for first in range(0, count, WINDOW):
            await asyncio.gather(*(_publish(channel, queue) for _ in range(min(WINDOW, count - first))))


async def drain(url: str, queue: str, count: int, prefetch: int) -> tuple[float, float]:
    """Take and ack `count` messages one by one; the seconds from the first delivery to the last ack: on the clock, and
    of CPU."""
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        await channel.set_qos(prefetch_count=prefetch)
        source = await channel.get_queue(queue)
        start, cpu, taken = 0.0, 0.0, 0
        async with source.iterator() as messages:
            async for message in messages:
                if not taken:
                    start, cpu = time.perf_counter(), time.process_time()
                await message.ack()
                taken += 1
                if taken == count:
                    break
            return time.perf_counter() - start, time.process_time() - cpu


async def _publish(channel: AbstractChannel, queue: str) -> None:
    ref = JobRef(uuid4(), 0, queue, "noop", 4)
    message = aio_pika.Message(
        ref.body(),
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        priority=ref.priority,
        message_id=ref.message_id,
        type=ref.type,
        headers={"traceparent": ref.trace},
    )
    await channel.default_exchange.publish(message, queue)


if __name__ == "__main__":
    print(*uvloop.run(drain(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
