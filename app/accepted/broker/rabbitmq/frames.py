"""References and acks as AMQP 0-9-1 frames, a batch in one write. Each reference is confirmed for itself.

aiormq takes about 100 us to publish one message: a task, two locks, a timeout and a dozen frame objects; for an ack it
makes a frame object and a system call. Our messages differ in few fields (contract section 7), so only those are
encoded here. Section numbers are those of AMQP 0-9-1.
"""

import asyncio
import functools
import struct
from collections.abc import Sequence

import aiormq
import pamqp.frame
from aiormq.abc import ChannelFrame
from pamqp.commands import Basic

from accepted.broker.rabbitmq.topology import EXCHANGE, queue_name
from accepted.domain.references import JobRef

METHOD, HEADER, BODY = 1, 2, 3  # frame types, 2.3.5
END = b"\xce"

_PERSISTENT = 2
_TRACEPARENT = b"\x0btraceparentS"  # the name and the type of the one header field
# The flags of the properties (2.3.5.2): content-type, headers, delivery-mode, priority, message-id, type; the first.
_PRESENT = struct.pack(">H", 0xB8A0) + b"\x10application/json"
_FRAME = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HHQ")
_TABLE = struct.Struct(">I13sI")
_ACK = struct.Struct(">BHIHHQBB")  # basic.ack, 1.8.3.13, as a frame


async def publish(channel: aiormq.Channel, refs: Sequence[JobRef]) -> "list[asyncio.Future[object]]":
    """Publish `refs` with confirms and `mandatory`; one settled future each, in order.

    A future holds `PublishError` when its message was returned, `DeliveryError` when it was refused, `ValueError` when
    there is no message for it: its type is too long, say. Raises `aiormq.AMQPError` when the channel closes; the broker
    may then have some of them. After cancelling this call, close the channel: it may count a message that was not sent.
    """
    frames = [_frames(channel.number, ref) for ref in refs]
    async with channel.lock:
        confirmations = [
            _unsendable(channel) if frame is None else _expect(channel, ref.message_id)
            for ref, frame in zip(refs, frames, strict=True)
        ]
        payload = b"".join([frame for frame in frames if frame is not None])
        await channel.write_queue.put(ChannelFrame(payload=payload, should_close=False))
    closing = channel.closing
    closing.add_done_callback(lambda done: _give_up(done, confirmations))
    try:
        await asyncio.wait(confirmations)
    finally:
        closing.cancel()
        for ref in refs:
            channel.message_id_delivery_tag.pop(ref.message_id, None)
    if any(one.cancelled() for one in confirmations):
        raise aiormq.exceptions.ChannelInvalidStateError("closed before everything was confirmed")
    return confirmations


async def ack(channel: aiormq.Channel, tags: Sequence[int]) -> None:
    """Ack these deliveries of the channel. Raises `ChannelInvalidStateError` when it is closed."""
    if channel.is_closed:
        raise aiormq.exceptions.ChannelInvalidStateError("closed before the acks were sent")
    await channel.write_queue.put(ChannelFrame(payload=acks(channel.number, tags), should_close=False))


def acks(channel: int, tags: Sequence[int]) -> bytes:
    """A frame for each tag."""
    size = 13  # of class, method, tag and flags
    return b"".join(
        [_ACK.pack(METHOD, channel, size, Basic.frame_id, Basic.Ack.frame_id, tag, 0, END[0]) for tag in tags]
    )


def _give_up(closed: "asyncio.Future[object]", confirmations: "list[asyncio.Future[object]]") -> None:
    """The channel is closed, or the call has ended: what is not confirmed by now will not be."""
    if not closed.cancelled():
        closed.exception()  # retrieved here; the connection reports it
    for one in confirmations:
        one.cancel()


def _expect(channel: aiormq.Channel, message_id: str) -> "asyncio.Future[object]":
    """Number the next message (confirm.select, RabbitMQ's extension), and return the future of its confirm."""
    channel.delivery_tag += 1
    confirmation: asyncio.Future[object] = channel.loop.create_future()
    channel.confirmations[channel.delivery_tag] = confirmation
    channel.message_id_delivery_tag[message_id] = channel.delivery_tag
    return confirmation


def _unsendable(channel: aiormq.Channel) -> "asyncio.Future[object]":
    refused: asyncio.Future[object] = channel.loop.create_future()
    refused.set_exception(ValueError("this reference does not fit into a message"))
    return refused


def _frames(channel: int, ref: JobRef) -> bytes | None:
    """The message; None if a field of the reference does not fit, which stops no other reference."""
    try:
        return b"".join((_method(channel, ref.queue), *_content(channel, ref)))
    except (ValueError, TypeError, struct.error):
        return None


@functools.lru_cache(maxsize=1024)
def _method(channel: int, queue: str) -> bytes:
    """basic.publish, 1.8.3.7."""
    method = Basic.Publish(exchange=EXCHANGE, routing_key=queue_name(queue), mandatory=True)
    return bytes(pamqp.frame.marshal(method, channel))


def _content(channel: int, ref: JobRef) -> tuple[bytes, ...]:
    """The content header (2.3.5.2) and the body, a frame each."""
    body, trace = ref.body(), ref.trace.encode()
    kind = ref.type.encode()
    identity = ref.message_id.encode()
    header = b"".join(
        (
            _CONTENT.pack(Basic.frame_id, 0, len(body)),
            _PRESENT,
            _TABLE.pack(len(_TRACEPARENT) + 4 + len(trace), _TRACEPARENT, len(trace)),
            trace,
            bytes((_PERSISTENT, ref.priority, len(identity))),
            identity,
            bytes((len(kind),)),
            kind,
        )
    )
    return _FRAME.pack(HEADER, channel, len(header)), header, END, _FRAME.pack(BODY, channel, len(body)), body, END
