"""Limits on both brokers, with real workers: messages that are doubled, late or lost, and workers that die."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from accepted.domain.references import JobRef
from accepted.storage.db.engine import create_engine
from accepted_worker.scheduler import limiter as module
from accepted_worker.scheduler.relay import Reconciler, Relay
from tests.support.ledger.brokers import PATIENCE, BrokerHarness, claim_all, ids, nothing_comes
from tests.support.ledger.limited_queue import (
    a_limiter,
    a_worker,
    all_finished,
    counted,
    limit,
    limiting,
    most_at_once,
    put,
    starts,
)
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.service.in_process_worker import working
from tests.support.waiting import until

MINUTE = 60.0


async def test_several_limiters_and_workers_never_run_more_than_the_limit(
    harness: BrokerHarness, database_url: str
) -> None:
    await limit(harness.engine, max_running=3, max_running_per_key=2)
    for key in ("a", "b", "a", None):
        await put(harness.engine, harness.broker, 15, concurrency_key=key, type="sleep", payload='{"seconds": 0.02}')
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(working(harness.engine, harness.broker, concurrency=4))
        await stack.enter_async_context(limiting(harness.engine, harness.broker, database_url, 3))
        await all_finished(harness.engine, 60, PATIENCE * 2)
    assert await most_at_once(harness.engine) == 3
    assert await most_at_once(harness.engine, "j.concurrency_key = 'a'") <= 2
    assert {row["attempt"] for row in await rows(harness.engine, "SELECT attempt FROM jobs")} == {1}


async def test_a_limit_holds_for_what_is_published_already(harness: BrokerHarness, database_url: str) -> None:
    await harness.put("q", 300)
    async with working(harness.engine, harness.broker, concurrency=20):
        await until(lambda: counted_running(harness, 10), PATIENCE, "jobs to run")
        await limit(harness.engine, max_running=5)
        (row,) = await rows(harness.engine, "SELECT now() + interval '0.2 seconds' AS at")
        async with limiting(harness.engine, harness.broker, database_url, 2):
            await all_finished(harness.engine, 300, PATIENCE * 2)
    after = await most_at_once(harness.engine, f"t.started_at > '{row['at']}'")
    assert after <= 5


async def counted_running(harness: BrokerHarness, count: int) -> bool:
    return len(await rows(harness.engine, "SELECT 1 FROM attempts")) >= count


async def test_b_starts_within_one_slot_s_turn(harness: BrokerHarness, database_url: str) -> None:
    await put(harness.engine, harness.broker, 10_000, concurrency_key="a", type="sleep", payload='{"seconds": 0.3}')
    async with (
        working(harness.engine, harness.broker, concurrency=2),
        limiting(harness.engine, harness.broker, database_url),
    ):
        await until(lambda: counted_running(harness, 4), PATIENCE, "a's jobs to run")
        (b,) = await put(harness.engine, harness.broker, 1, concurrency_key="b", type="sleep", payload='{"seconds": 0}')

        async def began() -> float | None:
            (row,) = await rows(
                harness.engine, "SELECT EXTRACT(epoch FROM started_at - created_at) AS s FROM jobs WHERE id = :id", id=b
            )
            return float(row["s"]) if row["s"] is not None else None

        assert await until(began, PATIENCE, "b's job to start") < 10, "all of a's jobs take 25 minutes"


async def test_a_rate_is_exact_over_all_workers(harness: BrokerHarness, database_url: str) -> None:
    """Never more are admitted; how much less, and how late the first one starts, depends on the load of the machine."""
    await limit(harness.engine, rate_jobs=20, rate_per=1.0)
    await put(harness.engine, harness.broker, 200)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(working(harness.engine, harness.broker, concurrency=4))
        await stack.enter_async_context(limiting(harness.engine, harness.broker, database_url, 2))
        await all_finished(harness.engine, 70, PATIENCE)
    began = await starts(harness.engine)
    assert 20 <= sum(1 for at in began if at < 3) <= 72


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_ten_a_second_are_six_hundred_in_any_minute(harness: BrokerHarness, database_url: str) -> None:
    await limit(harness.engine, rate_jobs=10, rate_per=1.0)
    await put(harness.engine, harness.broker, 1000)
    engines = [create_engine(database_url) for _ in range(9)]  # as many processes would have
    async with AsyncExitStack() as stack:
        for engine in engines[1:]:
            await stack.enter_async_context(working(engine, harness.broker, concurrency=5))
        await stack.enter_async_context(limiting(engines[0], harness.broker, database_url, 3))
        await all_finished(harness.engine, 800, 2 * MINUTE)
    for engine in engines:
        await engine.dispose()
    began = await starts(harness.engine)
    windows = [at for at in began if at <= began[-1] - MINUTE]
    counts = {sum(1 for at in began if first <= at < first + MINUTE) for first in windows}
    assert min(counts) >= 594
    assert max(counts) <= 606


async def test_messages_for_what_is_held_are_stale(harness: BrokerHarness, database_url: str) -> None:
    await limit(harness.engine, max_running=1)
    await a_worker(harness.engine, 5)
    held = await put(harness.engine, harness.broker, 3)
    refs = [JobRef(job_id, 0, "q", "noop", 4) for job_id in held]
    for _ in range(2):
        await harness.broker.publish(refs)
    subscription = harness.subscribe(5, "q")
    waiting = asyncio.ensure_future(subscription.claim(5))
    await asyncio.wait([waiting], timeout=1.0)
    assert not waiting.done()
    assert await counted(harness.engine, "on_hold AND NOT published") == 3
    limiter = a_limiter(harness.engine, harness.broker, database_url)
    assert await limiter.run_once() == 1
    (delivery,) = await asyncio.wait_for(waiting, PATIENCE)
    assert delivery.claim.job.id == held[0]
    await harness.broker.publish(refs)
    assert await limiter.run_once() == 0
    assert await nothing_comes(subscription)


async def test_a_limiter_that_dies_before_it_publishes_leaves_that_to_the_relay(
    harness: BrokerHarness, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: object) -> int:
        raise asyncio.CancelledError

    monkeypatch.setattr(module, "HOLD", 0.3)
    await limit(harness.engine, max_running=2)
    await a_worker(harness.engine, 5)
    held = await put(harness.engine, harness.broker, 3)
    with monkeypatch.context() as dying:
        dying.setattr(module, "publish", killed)
        limiter = a_limiter(harness.engine, harness.broker, database_url)
        if harness.kind == "rabbitmq":
            with pytest.raises(asyncio.CancelledError):
                await limiter.run_once()
        else:
            assert await limiter.run_once() == 2, "its commit was the publishing"
    assert await a_limiter(harness.engine, harness.broker, database_url).run_once() == 0, "their room is taken"
    relay = Relay(harness.engine, harness.broker, PollConnection(harness.engine))
    if harness.kind == "rabbitmq":
        assert await until(relay.run_once, PATIENCE, "the relay to publish them") == 2
    assert sorted(ids(await claim_all(harness, harness.subscribe(5, "q"), 2))) == sorted(held[:2])


async def test_admitted_references_that_the_broker_lost_are_published_again(
    harness: BrokerHarness, database_url: str, request: pytest.FixtureRequest
) -> None:
    if harness.kind == "postgres":
        pytest.skip("this broker loses nothing")
    await limit(harness.engine, max_running=2)
    await a_worker(harness.engine, 5)
    held = await put(harness.engine, harness.broker, 3)
    assert await a_limiter(harness.engine, harness.broker, database_url).run_once() == 2
    request.getfixturevalue("rabbitmq_node").purge("accepted.q.q", request.getfixturevalue("amqp_vhost").name)
    await do(harness.engine, "UPDATE outbox SET due_at = now() - interval '1 minute' WHERE published")
    assert await Reconciler(harness.engine, harness.broker).run_once() == 2
    assert await Relay(harness.engine, harness.broker, PollConnection(harness.engine)).run_once() == 2
    assert sorted(ids(await claim_all(harness, harness.subscribe(5, "q"), 2))) == sorted(held[:2])


async def test_a_free_slot_is_filled_soon_and_a_submission_starts_soon(
    harness: BrokerHarness, database_url: str
) -> None:
    await limit(harness.engine, max_running=1)
    async with (
        working(harness.engine, harness.broker, concurrency=2),
        limiting(harness.engine, harness.broker, database_url),
    ):
        await put(harness.engine, harness.broker, 1)
        await all_finished(harness.engine, 1, PATIENCE)
        for count in range(2, 5):
            await put(harness.engine, harness.broker, 1)
            await all_finished(harness.engine, count, PATIENCE)
        await put(harness.engine, harness.broker, 20)
        await all_finished(harness.engine, 24, PATIENCE)
    waits = await rows(
        harness.engine, "SELECT EXTRACT(epoch FROM started_at - created_at) AS s FROM jobs ORDER BY created_at LIMIT 4"
    )
    assert min(float(row["s"]) for row in waits[1:]) < 0.5, "no notification came"
    began = await starts(harness.engine)
    assert (began[-1] - began[4]) / 19 < 0.5
