"""Declaring job queues, each for itself: one that the broker refuses stops nothing but its own jobs.

It refuses a queue that exists with other arguments, and a new one beyond a limit of the virtual host. Both close the
declaring channel alone (RabbitMQ 3.10: 406). Whatever else goes wrong is the connection's trouble, and raised.
"""

import time

import aiormq.exceptions
import structlog
from aio_pika.abc import AbstractConnection

from app.broker.topology import declare_queue

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

    async def declare(self, connection: AbstractConnection, queue: str) -> bool:
        """Whether the queue is there now; False without asking if it was refused a moment ago."""
        if self._left_alone(queue):
            return False
        try:
            async with connection.channel() as channel:  # of its own: a refusal closes it
                await declare_queue(channel, queue)
        except REFUSALS as error:
            if not self._left_alone(queue):  # said once, however many found out together
                log.warning("queue_refused", queue=queue, error=str(error))
            self._not_before[queue] = time.monotonic() + TRY_AGAIN
            return False
        self._not_before.pop(queue, None)
        return True

    def _left_alone(self, queue: str) -> bool:
        return time.monotonic() < self._not_before.get(queue, 0.0)
