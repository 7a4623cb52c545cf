"""Messages that were delivered and not claimed yet, taken round robin over their queues."""

from collections import deque
from collections.abc import Iterable

from aiormq.abc import DeliveredMessage


class Buffer:
    """Messages by routing key, which is their queue's name; a queue that was served goes behind the others."""

    def __init__(self) -> None:
        self._waiting: dict[str | None, deque[DeliveredMessage]] = {}
        self.last: str | None = None
        """The routing key of the message that was taken last."""

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, message: DeliveredMessage) -> None:
        self._waiting.setdefault(message.routing_key, deque()).append(message)

    def put_back(self, messages: Iterable[DeliveredMessage]) -> None:
        """Put messages that were taken first on their queues again, in their order."""
        for message in reversed(list(messages)):
            self._waiting.setdefault(message.routing_key, deque()).appendleft(message)

    def take(self, limit: int) -> list[DeliveredMessage]:
        """Take up to `limit` messages, one of each queue at a time."""
        return [self._next() for _ in range(min(limit, len(self)))]

    def clear(self) -> None:
        self._waiting.clear()

    def _next(self) -> DeliveredMessage:
        self.last = key = next(iter(self._waiting))
        messages = self._waiting.pop(key)
        message = messages.popleft()
        if messages:
            self._waiting[key] = messages
        return message
