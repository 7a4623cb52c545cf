"""Rejections: messages that were no references are in `accepted.dead`, and somebody should come to know."""

import structlog

from accepted.broker.base import Broker
from accepted.errors import BrokerUnavailable

EVERY = 30.0

log = structlog.get_logger(__name__)


class Rejections:
    """Says so in the log whenever there are more than at the last look, and once after a start."""

    name = "rejections"

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._seen = 0

    async def run_once(self) -> int:
        try:
            count = await self._broker.count_rejected()
        except BrokerUnavailable:
            return 0
        more, self._seen = max(count - self._seen, 0), count
        if more:
            log.warning("messages_rejected", more=more, count=count)
        return more

    def pause(self, done: int) -> float:
        return EVERY
