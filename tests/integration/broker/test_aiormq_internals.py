"""What `accepted.broker.rabbitmq.frames` uses of aiormq beyond its API: the writer's queue and the delivery tags.

aiormq has an upper bound in pyproject.toml. Raise it when these pass with the newer version.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import aiormq
import pytest
from aiormq.abc import ChannelFrame
from aiormq.exceptions import PublishError
from pamqp.commands import Basic

from accepted.broker.rabbitmq import frames
from accepted.broker.rabbitmq.topology import EXCHANGE, queue_name
from accepted.domain.ids import new_id
from accepted.domain.references import JobRef


@pytest.fixture
async def channel(amqp_url: str) -> AsyncIterator[aiormq.Channel]:
    """A channel with confirms, where the exchange has one queue for references: `known`."""
    connection = await aiormq.connect(amqp_url)
    opened = await connection.channel(publisher_confirms=True)
    assert isinstance(opened, aiormq.Channel)
    await opened.exchange_declare(EXCHANGE, exchange_type="direct", durable=True)
    declared = await opened.queue_declare(exclusive=True)
    assert declared.queue is not None
    await opened.queue_bind(declared.queue, EXCHANGE, queue_name("known"))
    yield opened
    await connection.close()


def reference(queue: str = "known") -> JobRef:
    return JobRef(new_id(), 0, queue, "noop", 4)


async def test_our_frames_and_its_own_share_one_numbering(channel: aiormq.Channel) -> None:
    async def its_own() -> None:
        assert isinstance(await channel.basic_publish(b"", routing_key="nowhere"), Basic.Ack)

    await its_own()
    confirmed = await frames.publish(channel, [reference(), reference()])
    await its_own()
    assert [type(one.result()) for one in confirmed] == [Basic.Ack, Basic.Ack]
    assert channel.delivery_tag == 4
    assert not channel.confirmations
    assert not channel.message_id_delivery_tag


async def test_a_returned_message_is_found_by_its_id(channel: aiormq.Channel) -> None:
    confirmed = await frames.publish(channel, [reference(), reference("unknown"), reference()])
    assert [type(one.exception()) for one in confirmed] == [type(None), PublishError, type(None)]
    assert not channel.confirmations


async def test_the_writer_takes_whole_batches_from_its_queue(channel: aiormq.Channel) -> None:
    assert isinstance(channel.write_queue, asyncio.Queue)
    required = {field.name for field in dataclasses.fields(ChannelFrame) if field.default is dataclasses.MISSING}
    assert required == {"payload", "should_close"}


async def test_a_closed_channel_ends_what_waits_for_it(channel: aiormq.Channel) -> None:
    closing = channel.closing
    await channel.close()
    await asyncio.wait([closing], timeout=10)
    assert closing.done()
    with pytest.raises(aiormq.exceptions.ChannelInvalidStateError):
        await frames.publish(channel, [reference()])
