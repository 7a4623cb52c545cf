"""What we declare on RabbitMQ (contract section 7), and why each argument is there.

Each job queue is declared by itself: one that the broker refuses stops only its own jobs. RabbitMQ refuses a
queue that exists with other arguments, and a new one beyond a limit of the virtual host. Both close only the declaring
channel (RabbitMQ 3.10: 406). Any other error concerns the connection, and is raised.
"""

import time
from collections.abc import Iterable

import aiormq.exceptions
import structlog
from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection

EXCHANGE = "accepted.jobs"
DEAD_EXCHANGE = "accepted.dlx"
DEAD_QUEUE = "accepted.dead"

QUORUM = {"x-queue-type": "quorum"}  # replicated and fsynced: a confirmed message survives a node

DELIVERY_LIMIT = 100
"""Returns after which the broker dead-letters a message. The ledger counts attempts; this is the backstop for a message
that no worker can even read, well above what restarts of workers cause (RabbitMQ 4 has 20 by default)."""

DEAD_LENGTH = 100_000
"""Messages kept for inspection. They hold at most references; the jobs are in the ledger."""


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


REFUSALS = (
    aiormq.exceptions.ChannelPreconditionFailed,
    aiormq.exceptions.ChannelAccessRefused,
    aiormq.exceptions.ChannelLockedResource,
)
"""Not `ChannelNotFoundEntity`: then the exchange is gone, and the next connection declares it."""

TRY_AGAIN = 15.0
"""Seconds until a refused queue is declared again: an operator has to delete it, or to raise the limit."""

log = structlog.get_logger(__name__)


class Declarer:
    """Declares job queues, and remembers across connections which were refused."""

    def __init__(self) -> None:
        self._not_before: dict[str, float] = {}

    async def declare(self, connection: AbstractConnection, queues: Iterable[str]) -> set[str]:
        """Declare the queues, except those refused less than `TRY_AGAIN` ago. Returns those that exist now."""
        left = [queue for queue in queues if not self._was_refused(queue)]
        there: set[str] = set()
        while left:
            try:
                async with connection.channel() as channel:  # until a refusal closes it
                    while left:
                        await declare_queue(channel, left[-1])
                        there.add(left.pop())
            except REFUSALS as error:
                self._refused(left.pop(), error)
        return there

    def _refused(self, queue: str, error: Exception) -> None:
        if not self._was_refused(queue):  # logged once, also when several tries fail together
            log.warning("queue_refused", queue=queue, error=str(error))
        self._not_before[queue] = time.monotonic() + TRY_AGAIN

    def _was_refused(self, queue: str) -> bool:
        return time.monotonic() < self._not_before.get(queue, 0.0)
