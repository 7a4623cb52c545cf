"""What RabbitMQ delivers, as received messages."""

import structlog
from aiormq.abc import DeliveredMessage

from accepted.broker.base import ReceivedMessage
from accepted.broker.rabbitmq.connections import reject
from accepted.domain.references import read_body
from accepted.metrics import MESSAGES_DROPPED

log = structlog.get_logger(__name__)


async def read(message: DeliveredMessage) -> ReceivedMessage | None:
    """The reference; None for a malformed message, which is rejected."""
    body = read_body(message.body)
    if body is None:
        MESSAGES_DROPPED.labels("malformed").inc()
        log.warning("message_rejected", reason="malformed")
        await reject(message)
        return None
    return ReceivedMessage((body.id, body.attempt), message)


def delivered(message: ReceivedMessage) -> DeliveredMessage:
    """The message as it came, to ack or to reject."""
    assert isinstance(message.receipt, DeliveredMessage)
    return message.receipt
