"""Declaring job queues, each for itself: one that the broker refuses stops nothing but its own jobs.

It refuses a queue that exists with other arguments, and a new one beyond a limit of the virtual host. Both close the
declaring channel alone (RabbitMQ 3.10: 406). Whatever else goes wrong is the connection's trouble, and raised.
"""

import time
from collections.abc import Iterable

import aiormq.exceptions
import structlog
from aio_pika.abc import AbstractConnection

from accepted.broker.rabbitmq.topology import declare_queue

REFUSALS = (
    aiormq.exceptions.ChannelPreconditionFailed,
    aiormq.exceptions.ChannelAccessRefused,
    aiormq.exceptions.ChannelLockedResource,
)
"""Not `ChannelNotFoundEntity`: then the exchange is gone, which connecting anew puts right."""

TRY_AGAIN = 15.0
"""Seconds for which a refused queue is left alone: somebody has to delete it, or to raise the limit."""

log = structlog.get_logger(__name__)


class Declarer:
    """Remembers what was refused, across connections."""

    def __init__(self) -> None:
        self._not_before: dict[str, float] = {}

    async def declare(self, connection: AbstractConnection, queues: Iterable[str]) -> set[str]:
        """Which of the queues are there now. Those that were refused a moment ago are not asked for."""
        left = [queue for queue in queues if not self._left_alone(queue)]
        there: set[str] = set()
        while left:
            try:
                async with connection.channel() as channel:  # for as many as go well: a refusal closes it
                    while left:
                        await declare_queue(channel, left[-1])
                        there.add(left.pop())
            except REFUSALS as error:
                self._refused(left.pop(), error)
        return there

    def _refused(self, queue: str, error: Exception) -> None:
        if not self._left_alone(queue):  # said once, however many found out together
            log.warning("queue_refused", queue=queue, error=str(error))
        self._not_before[queue] = time.monotonic() + TRY_AGAIN

    def _left_alone(self, queue: str) -> bool:
        return time.monotonic() < self._not_before.get(queue, 0.0)
