"""What a worker does about the attempts it holds: those it never heard of, and those that take long."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.broker.base import Broker
from app.broker.postgres import PostgresBroker
from app.broker.rabbitmq import RabbitBroker
from app.domain.addresses import EgressAllow
from app.domain.ids import new_id
from app.domain.job import Job, NewJob
from app.services.submission import Submission, Submissions
from app.storage.claims import claim_next
from app.storage.engine import create_engine, transaction
from app.storage.reading import attempts_of, jobs_by_id
from tests.support.rabbitmq import RabbitMQNode
from tests.support.waiting import until
from workers import registry, worker
from workers.egress import Egress
from workers.executor import Executor
from workers.worker import Worker

HANDLERS = registry.load(["workers.handlers"])


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(database_url)
    yield made
    await made.dispose()


@asynccontextmanager
async def working(engine: AsyncEngine, broker: Broker, queue: str, ack_within: float = 600) -> AsyncIterator[Worker]:
    executor = Executor(HANDLERS, Egress(EgressAllow()), 2, 1000)
    one = Worker(
        engine, broker, HANDLERS, executor,
        queue_names=[queue], concurrency=2, lease_ttl=3, shutdown_grace=3, ack_within=ack_within,
    )  # fmt: skip
    running = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        one.stop()
        await running


async def accept(engine: AsyncEngine, broker: Broker, type_: str, payload: str) -> UUID:
    new = NewJob(id=new_id(), tenant="t", type=type_, queue="q", payload=payload, max_attempts=5)
    submissions = Submissions(engine, broker, 60)
    await submissions.accept(Submission(new))
    await submissions.close()
    return new.id


async def read(engine: AsyncEngine, job_id: UUID) -> Job:
    async with transaction(engine) as conn:
        return (await jobs_by_id(conn, [job_id]))[job_id]


def has(engine: AsyncEngine, job_id: UUID, status: str) -> Callable[[], object]:
    async def check() -> bool:
        return (await read(engine, job_id)).status == status

    return check


async def test_an_attempt_whose_claim_was_never_heard_of_goes_back(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim committed and its answer was lost: the worker lives, so no rescuer would ever take it."""
    monkeypatch.setattr(worker, "UNHEARD_OF", 0.5)
    broker = PostgresBroker(engine, database_url)
    job_id = await accept(engine, broker, "noop", "{}")
    async with working(engine, broker, "elsewhere") as one:
        async with transaction(engine) as conn:
            assert len(await claim_next(conn, one.id, ["q"], 1)) == 1
            await conn.commit()
        assert (await read(engine, job_id)).status == "running"
        await until(has(engine, job_id, "queued"), 20, "the lost claim to be handed back")
    job = await read(engine, job_id)
    assert (job.attempt, job.max_attempts) == (1, 6), "the attempt is not charged"


async def test_a_long_job_is_acked_early_and_ends_once(
    engine: AsyncEngine, amqp_vhost, rabbitmq_node: RabbitMQNode
) -> None:
    broker = RabbitBroker([amqp_vhost.url], engine)
    async with working(engine, broker, "q", ack_within=0.5):
        job_id = await accept(engine, broker, "sleep", '{"seconds": 4}')
        await until(has(engine, job_id, "running"), 20, "the job to run")
        await until(
            lambda: rabbitmq_node.queues(amqp_vhost.name).get("accepted.q.q", (0, 1, 0))[:2] == (0, 0),
            3.4,
            "the message to be acked while the job runs",
        )
        assert (await read(engine, job_id)).status == "running"
        await until(has(engine, job_id, "succeeded"), 20, "the job to end")
        again = await accept(engine, broker, "noop", "{}")
        await until(has(engine, again, "succeeded"), 20, "the channel to be still good")
    async with transaction(engine) as conn:
        assert [one.outcome for one in await attempts_of(conn, [job_id])] == ["succeeded"]
    await broker.close()
