"""The attempts that a worker runs: claims whose answer was lost, long ones, and the loops beside them."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from accepted.broker.postgres import PostgresBroker
from accepted.broker.rabbitmq import subscription
from accepted.broker.rabbitmq.broker import RabbitBroker
from accepted.storage.attempts.claims import claim_next
from accepted.storage.db.engine import transaction
from accepted_worker.runtime import lane, worker
from tests.support.ledger.brokers import BrokerHarness
from tests.support.ledger.sql import do, rows
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.service.in_process_worker import HANDLERS, accept, attempts, has, read, working
from tests.support.waiting import until


async def test_an_attempt_whose_claim_got_no_answer_is_handed_back(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim committed and its answer was lost. The worker lives, so the rescuer would never end the attempt."""
    monkeypatch.setattr(lane, "UNKNOWN_SECONDS", 0.5)
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


async def test_such_an_attempt_is_found_beside_all_that_the_worker_runs(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "UNKNOWN_SECONDS", 0.5)
    monkeypatch.setattr(lane, "MAX_BATCH", 1)
    broker = PostgresBroker(engine, database_url)
    held = [await accept(engine, broker, "sleep", '{"seconds": 600}') for _ in range(3)]
    async with working(engine, broker, "q", concurrency=3) as one:
        for job_id in held:
            await until(has(engine, job_id, "running"), 20, "the others to run")
        job_id = await accept(engine, broker, "noop", queue="elsewhere")
        async with transaction(engine) as conn:
            assert len(await claim_next(conn, one.id, ["elsewhere"], 1)) == 1
            await conn.commit()
        await until(has(engine, job_id, "queued"), 20, "the lost claim to be handed back")


@pytest.mark.parametrize(("table", "event"), [("workers", "worker_loop_failed"), ("attempts", "claim_failed")])
async def test_no_error_ends_the_loops_of_a_worker(
    engine: AsyncEngine, database_url: str, table: str, event: str
) -> None:
    """Even an unexpected one: here a table that refuses rows for a while."""
    broker = PostgresBroker(engine, database_url)
    async with working(engine, broker, "q", lease_ttl=0.3) as one:
        await until(lambda: rows(engine, "SELECT 1 FROM workers"), 20, "the worker to be there")
        with capture_logs() as lines:
            await do(engine, f"ALTER TABLE {table} ADD CONSTRAINT never CHECK (false) NOT VALID")
            job_id = await accept(engine, broker, "noop")
            await until(lambda: event in {line["event"] for line in lines}, 20, "a failure")
            await do(engine, f"ALTER TABLE {table} DROP CONSTRAINT never")
        await until(has(engine, job_id, "succeeded"), 20, "the worker to take the job")
        await do(engine, "UPDATE workers SET heartbeat_at = now() - interval '1 h'")
        beaten = "SELECT 1 FROM workers WHERE id = :id AND heartbeat_at > now() - interval '1 minute'"
        await until(lambda: rows(engine, beaten, id=one.id), 20, "a heartbeat")


async def test_the_ledger_has_the_slots_queues_and_types_of_a_worker(engine: AsyncEngine, database_url: str) -> None:
    broker = PostgresBroker(engine, database_url)
    async with working(engine, broker, "q", concurrency=3, lease_ttl=0.3) as one:
        (row,) = await until(lambda: rows(engine, "SELECT slots, queues, types FROM workers"), 20, "the worker's row")
        assert row == {"slots": 3, "queues": ["q"], "types": sorted(HANDLERS)}
        job_id = await accept(engine, broker, "sleep", '{"seconds": 2}')
        await until(has(engine, job_id, "running"), 20, "the job to run")
        one.stop()
        await until(lambda: slots(engine, 1), 5, "a stopping worker to offer only what it still fills")
    assert await rows(engine, "SELECT * FROM workers") == []


async def test_a_new_queue_is_served_at_once(
    harness: BrokerHarness, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker does not poll during this test."""
    monkeypatch.setattr(worker, "FIND_QUEUES_SECONDS", 600.0)
    monkeypatch.setattr(subscription, "WATCH_EVERY", 600.0)
    async with working(harness.engine, harness.broker, None, database_url=database_url):
        known = await accept(harness.engine, harness.broker, "noop", queue="default")
        await until(has(harness.engine, known, "succeeded"), 30, "the worker to be there")
        job_id = await accept(harness.engine, harness.broker, "noop", queue="new")
        await until(has(harness.engine, job_id, "succeeded"), 30, "the job on the new queue")


async def slots(engine: AsyncEngine, expected: int) -> bool:
    return [row["slots"] for row in await rows(engine, "SELECT slots FROM workers")] == [expected]


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
    assert [one.outcome for one in await attempts(engine, job_id)] == ["succeeded"]
    await broker.close()
