"""What we declare on RabbitMQ (contract section 7), and why each argument is there."""

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel

EXCHANGE = "accepted.jobs"
DEAD_EXCHANGE = "accepted.dlx"
DEAD_QUEUE = "accepted.dead"

QUORUM = {"x-queue-type": "quorum"}  # replicated and fsynced: a confirmed message survives a node

DELIVERY_LIMIT = 100
"""Returns after which the broker dead-letters a message. Attempts are counted in the ledger; this is the backstop
for a message that no worker can even read, well above what restarts of workers cause (RabbitMQ 4's own is 20)."""

DEAD_LENGTH = 100_000
"""Messages kept for inspection. They are references at most; the ledger has the jobs."""


_PREFIX = "accepted.q."


def queue_name(queue: str) -> str:
    """The broker's name for a job queue; also its routing key."""
    return f"{_PREFIX}{queue}"


def queue_of(name: str) -> str:
    """The job queue with that name on the broker."""
    return name.removeprefix(_PREFIX)


async def declare_base(channel: AbstractChannel) -> None:
    """The exchanges and the dead-letter queue. Idempotent."""
    await channel.declare_exchange(EXCHANGE, ExchangeType.DIRECT, durable=True)
    dead = await channel.declare_exchange(DEAD_EXCHANGE, ExchangeType.FANOUT, durable=True)
    queue = await channel.declare_queue(
        DEAD_QUEUE, durable=True, arguments={**QUORUM, "x-max-length": DEAD_LENGTH, "x-overflow": "drop-head"}
    )
    await queue.bind(dead)


async def declare_queue(channel: AbstractChannel, queue: str) -> None:
    """A job queue and its binding. Idempotent; fails if it exists with other arguments."""
    declared = await channel.declare_queue(
        queue_name(queue),
        durable=True,
        arguments={**QUORUM, "x-dead-letter-exchange": DEAD_EXCHANGE, "x-delivery-limit": DELIVERY_LIMIT},
    )
    await declared.bind(EXCHANGE, routing_key=queue_name(queue))
