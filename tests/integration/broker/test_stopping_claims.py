"""A worker stops while messages are on their way from its subscription to its claim."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import ReceivedMessage
from accepted.broker.postgres import PostgresBroker
from accepted.services.jobs.claiming import Claimer
from tests.support.ledger.jobs import WORKER, put, the_job


class Stopping(PostgresBroker):
    """A broker with messages, whose subscription is stopped while it hands over the last one that it received.

    RabbitMQ's does that when it has to reject another message of the same batch first.
    """

    is_ledger = False

    def __init__(self, engine: AsyncEngine, *references: tuple[UUID, int]) -> None:
        super().__init__(engine, "")
        self.messages = [ReceivedMessage(reference, object()) for reference in references]
        self.acked: list[ReceivedMessage] = []
        self.stopped = False
        self.queues = ["q"]

    def subscribe(self, worker_id: UUID, slots: int) -> Any:
        return self

    def serve(self, queues: Sequence[str]) -> None:
        self.queues = list(queues)

    async def run(self) -> None:
        return None

    @asynccontextmanager
    async def receive(self, limit: int) -> AsyncIterator[list[ReceivedMessage]]:
        received, self.messages = self.messages[:limit], self.messages[limit:]
        self.stopped = True
        yield received

    def poll_now(self) -> None:
        return None

    async def ack(self, messages: Iterable[ReceivedMessage]) -> None:
        self.acked += messages

    async def reject(self, message: ReceivedMessage) -> None:
        raise AssertionError("it refers to a job")

    async def stop(self) -> None:
        self.stopped = True


async def test_what_was_received_as_the_worker_stops_is_claimed(engine: AsyncEngine) -> None:
    """Nobody would give it back: it has left the subscription. The worker hands the job back if it cannot run it."""
    (job,) = await put(engine)
    broker = Stopping(engine, (job, 0))
    claimer = Claimer(engine, broker, WORKER, 2)
    (delivery,) = await claimer.claim(2)
    assert (delivery.claim.job.id, (await the_job(engine, job))["status"]) == (job, "running")
    await claimer.ack([delivery])
    assert [message.reference for message in broker.acked] == [(job, 0)]
    assert await claimer.claim(2) == [], "nothing was received, and nothing more will be"
    await claimer.run()


async def test_a_stale_message_of_a_stopping_worker_is_acked(engine: AsyncEngine) -> None:
    (job,) = await put(engine)
    broker = Stopping(engine, (job, 5))
    claimer = Claimer(engine, broker, WORKER, 2)
    assert await claimer.claim(2) == []
    assert [message.reference for message in broker.acked] == [(job, 5)]
    assert (await the_job(engine, job))["status"] == "queued"
    await claimer.run()
