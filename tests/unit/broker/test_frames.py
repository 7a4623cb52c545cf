"""Our frames are byte for byte those of pamqp, the library under aio-pika."""

from uuid import UUID

import pamqp.frame
import pytest
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from accepted.broker.rabbitmq.frames import _content, acks
from accepted.domain.references import JobRef

ID = UUID("0198f1c2-7d5e-7cc3-98c4-dc0c0c07398f")
CHANNEL = 300


@pytest.mark.parametrize("kind", ["noop", "bücher.senden", "x" * 100])
@pytest.mark.parametrize("attempt", [0, 12])
def test_as_pamqp(kind: str, attempt: int) -> None:
    ref = JobRef(ID, attempt, "default", kind, 9, None)
    properties = Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        priority=9,
        message_id=ref.message_id,
        message_type=kind,
        headers={"traceparent": ref.trace},
    )
    header = ContentHeader(properties=properties, body_size=len(ref.body()))
    expected = pamqp.frame.marshal(header, CHANNEL) + pamqp.frame.marshal(ContentBody(ref.body()), CHANNEL)
    assert b"".join(_content(CHANNEL, ref)) == expected


def test_acks_as_pamqp() -> None:
    tags = [1, 256, 2**40]
    expected = [pamqp.frame.marshal(Basic.Ack(delivery_tag=tag), CHANNEL) for tag in tags]
    assert acks(CHANNEL, tags) == b"".join(expected)
