"""The order of things at each boundary, held still at the worst moment: what every later guarantee rests on.

In one process and on real servers, so that the moment can be chosen; the tests in `tests/mutants` break each of
these orders on purpose.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.broker.rabbitmq.broker import RabbitBroker
from accepted.domain import transitions
from accepted.domain.ids import new_id
from accepted.domain.job import Job, NewJob
from accepted.domain.network.addresses import EgressAllow
from accepted.domain.references import JobRef
from accepted.domain.retry import Retry
from accepted.domain.transitions import RunningAttempt
from accepted.services.jobs.completion import settle
from accepted.services.jobs.submission import Submission, Submissions
from accepted.settings import Settings
from accepted.storage.attempts.claims import Claim, claim_next
from accepted.storage.db.engine import transaction
from accepted.storage.jobs.reading import Attempt, attempts_of, jobs_by_id
from accepted.storage.jobs.submission import Entry, insert
from accepted_worker.attempt import registry
from accepted_worker.attempt.records import LedgerRecords
from accepted_worker.attempt.tools import Tools
from accepted_worker.outbound.egress import Egress
from accepted_worker.outbound.mail import Mail
from accepted_worker.process_pool.messages import Setup
from accepted_worker.process_pool.pool import ProcessPool
from accepted_worker.runtime.executor import Executor
from accepted_worker.runtime.suspects import Suspects
from accepted_worker.runtime.worker import Worker
from accepted_worker.scheduler.relay import Relay
from tests.support.ledger.poll_connection import PollConnection
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.ports import free_port
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until

QUEUE = "ordered"
SETUP = Setup((registry.BUILT_IN, registry.SLEEP), "", None, None, 1000, 10_000)
BROKER_QUEUE = f"accepted.q.{QUEUE}"
TTL = 60.0  # seconds

WAITS_FOR_A_LOCK = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
def ledger_broker(engine: AsyncEngine, database_url: str) -> PostgresBroker:
    return PostgresBroker(engine, database_url)


@pytest.fixture
async def rabbit(engine: AsyncEngine, amqp_vhost: VirtualHost) -> AsyncIterator[RabbitBroker]:
    broker = RabbitBroker([amqp_vhost.url], engine)
    yield broker
    await broker.close()


@pytest.mark.fault("F10", moment="jobs run")
async def test_a_late_outcome_changes_nothing(engine: AsyncEngine, ledger_broker: PostgresBroker) -> None:
    """The first worker was taken for dead; the second one's success stands, whatever the first says later."""
    job = await _accept(engine, ledger_broker)
    late = _running_attempt(await _claim(engine))
    assert await settle(engine, ledger_broker, [transitions.crashed(late, 0)]) == [True]
    async with transaction(engine) as conn:
        await conn.execute(text("UPDATE outbox SET published = true"))
        await conn.commit()
    second = _running_attempt(await _claim(engine))

    assert await settle(engine, ledger_broker, [transitions.succeeded(late, '"late, while the second runs"')]) == [
        False
    ]
    assert (await _read(engine, job)).status == "running"
    assert await settle(engine, ledger_broker, [transitions.succeeded(second, '"second"')]) == [True]
    before = await _read(engine, job), await _attempts(engine, job)
    for outcome in (transitions.succeeded(late, '"late"'), transitions.crashed(late, 0), transitions.handed_back(late)):
        assert await settle(engine, ledger_broker, [outcome]) == [False]
    assert await settle(engine, ledger_broker, [transitions.succeeded(second, '"twice"')]) == [False]
    assert (await _read(engine, job), await _attempts(engine, job)) == before
    assert before[0].result == '"second"'


@pytest.mark.fault("F10", moment="jobs run")
async def test_another_workers_lease_is_not_ours_to_end(engine: AsyncEngine, ledger_broker: PostgresBroker) -> None:
    await _accept(engine, ledger_broker)
    running = _running_attempt(await _claim(engine))
    stranger = msgspec.structs.replace(running, worker_id=new_id())
    assert await settle(engine, ledger_broker, [transitions.succeeded(stranger, "1")]) == [False]
    assert await settle(engine, ledger_broker, [transitions.succeeded(running, "1")]) == [True]


@pytest.mark.fault("F09", moment="at COMMIT")
async def test_a_message_is_acked_only_after_its_outcome_is_committed(
    engine: AsyncEngine, rabbit: RabbitBroker, rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost
) -> None:
    async with _working(engine, rabbit):
        job = await _accept(engine, rabbit, "sleep", '{"seconds": 0.5}')
        await until(lambda: _has(engine, job, "running"), 20, "the job to run")
        async with _row_locked(engine, job):
            await until(lambda: _value(engine, WAITS_FOR_A_LOCK), 20, "the outcome to wait for the row")
            for _ in range(10):  # five times as long as the broker's numbers are old
                assert rabbitmq_node.queues(amqp_vhost.name)[BROKER_QUEUE][:2] == (0, 1), "acked, and not yet committed"
                await asyncio.sleep(0.1)
        await until(lambda: _has(engine, job, "succeeded"), 20, "the job to end")
        await until(
            lambda: rabbitmq_node.queues(amqp_vhost.name)[BROKER_QUEUE][:2] == (0, 0), 20, "its message to be acked"
        )


@pytest.mark.fault("F02", moment="after COMMIT")
async def test_what_a_dead_submitter_did_not_publish_is_published_by_the_relay(
    engine: AsyncEngine, rabbit: RabbitBroker, rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost
) -> None:
    """The COMMIT is all that the submitter lives to see: here, it cannot reach the broker."""
    cut_off = RabbitBroker([f"amqp://127.0.0.1:{free_port()}/"], engine)
    for _ in range(3):
        await _accept(engine, cut_off)
    relay = Relay(engine, rabbit, PollConnection(engine))
    published = 0

    async def all_published() -> bool:
        nonlocal published
        published += await relay.run_once()
        return published == 3

    await until(all_published, 10, "the relay takes over")
    await until(lambda: rabbitmq_node.queues(amqp_vhost.name)[BROKER_QUEUE][0] == 3, 10, "all are published")


async def test_the_relay_finds_a_row_that_commits_after_a_later_one(
    engine: AsyncEngine, ledger_broker: PostgresBroker
) -> None:
    early, later = _new(), _new()
    assert early.id < later.id
    relay = Relay(engine, ledger_broker, PollConnection(engine))
    async with transaction(engine) as slow:
        await insert(slow, [Entry(early, handoff=0.0)], TTL)
        async with transaction(engine) as quick:
            await insert(quick, [Entry(later, handoff=0.0)], TTL)
            await quick.commit()
        assert await relay.run_once() == 1
        await slow.commit()
    assert await relay.run_once() == 1, "the early id came late, and was passed over"
    assert not await _value(engine, "SELECT count(*) FROM outbox WHERE NOT published")


@pytest.mark.fault("F52", moment="before COMMIT")
async def test_a_key_that_another_process_is_just_inserting(engine: AsyncEngine, ledger_broker: PostgresBroker) -> None:
    """The second submission waits for the first one's COMMIT, and is answered with its job."""
    first, second = _new(), _new()
    async with transaction(engine) as conn:
        await insert(conn, [Entry(first, "k", b"same body", None)], TTL)
        submissions = Submissions(engine, ledger_broker, TTL)
        waiting = asyncio.ensure_future(submissions.accept(Submission(second, "k", b"same body")))
        await until(lambda: _value(engine, WAITS_FOR_A_LOCK), 10, "the second to wait for the first")
        await conn.commit()
    receipt = await waiting
    await submissions.close()
    assert (receipt.job.id, receipt.replayed) == (first.id, True)
    assert await _value(engine, "SELECT count(*) FROM jobs") == 1


@pytest.mark.fault("F35", moment="idle")
async def test_a_message_that_no_queue_takes_is_not_published(
    engine: AsyncEngine, rabbit: RabbitBroker, rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost
) -> None:
    """RabbitMQ confirms what it cannot route: only the return tells."""
    ref = JobRef(new_id(), 0, QUEUE, "noop", 4)
    assert await rabbit.publish([ref]) == [ref]
    await until(lambda: rabbitmq_node.queues(amqp_vhost.name)[BROKER_QUEUE][0] == 1, 10, "the first is there")
    rabbitmq_node.delete_queue(BROKER_QUEUE, amqp_vhost.name)
    assert await rabbit.publish([ref]) == [ref]
    await until(
        lambda: rabbitmq_node.queues(amqp_vhost.name).get(BROKER_QUEUE, [0])[0] == 1, 10, "it is declared and there"
    )


def _new(type_: str = "noop", payload: str = "{}") -> NewJob:
    return NewJob(id=new_id(), tenant="t", type=type_, queue=QUEUE, payload=payload, max_attempts=5)


async def _accept(
    engine: AsyncEngine, broker: PostgresBroker | RabbitBroker, type_: str = "noop", payload: str = "{}"
) -> UUID:
    submissions = Submissions(engine, broker, TTL)
    receipt = await submissions.accept(Submission(_new(type_, payload)))
    await submissions.close()
    return receipt.job.id


async def _claim(engine: AsyncEngine) -> Claim:
    async with transaction(engine) as conn:
        claims = await claim_next(conn, new_id(), [QUEUE], 10)
        await conn.commit()
    assert len(claims) == 1
    return claims[0]


def _running_attempt(claim: Claim) -> RunningAttempt:
    return RunningAttempt(
        job_id=claim.job.id,
        attempt=claim.job.attempt,
        worker_id=claim.worker_id,
        max_attempts=5,
        crashes=claim.crashes,
        retry=Retry(),
    )


async def _read(engine: AsyncEngine, job_id: UUID) -> Job:
    async with transaction(engine) as conn:
        return (await jobs_by_id(conn, [job_id]))[job_id]


async def _attempts(engine: AsyncEngine, job_id: UUID) -> list[Attempt]:
    async with transaction(engine) as conn:
        return await attempts_of(conn, [job_id])


async def _has(engine: AsyncEngine, job_id: UUID, status: str) -> bool:
    return (await _read(engine, job_id)).status == status


async def _value(engine: AsyncEngine, sql: str) -> int:
    async with transaction(engine) as conn:
        return int((await conn.execute(text(sql))).scalar_one())


@asynccontextmanager
async def _row_locked(engine: AsyncEngine, job_id: UUID) -> AsyncIterator[None]:
    async with transaction(engine) as conn:
        await conn.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_id})
        yield


@asynccontextmanager
async def _working(engine: AsyncEngine, broker: RabbitBroker) -> AsyncIterator[None]:
    handlers = registry.load(SETUP.modules)
    pool = ProcessPool(SETUP)
    settings = Settings(database_url="postgresql://unused")
    tools = Tools(LedgerRecords(engine, settings), Egress(EgressAllow()), Mail(None, None), settings, threads=2)
    executor = Executor(handlers, tools, 2, 1000, pool)
    worker = Worker(
        engine, broker, handlers, executor, Suspects(handlers, executor, SETUP, settings),
        queue_names=[QUEUE], concurrency=2, lease_ttl=30, shutdown_grace=5, ack_within=600, blocked_limit=None,
        database_url="",
    )  # fmt: skip
    running = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await running
