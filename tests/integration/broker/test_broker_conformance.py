"""One suite for both brokers: the protocol of `app/accepted/broker/base.py`.

RabbitMQ and PostgreSQL must be told apart by nothing but speed; what is RabbitMQ's alone is in
`test_broker_conformance_rabbitmq.py`.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

from accepted.domain import transitions
from accepted.domain.references import JobRef
from accepted.services.jobs.claiming import Claimer
from accepted.services.jobs.completion import settle
from accepted.storage import workers
from accepted.storage.db.engine import transaction
from accepted_worker.scheduler.relay import Relay
from tests.support.ledger import limited_queue as limited
from tests.support.ledger.brokers import (
    PATIENCE,
    SHORT,
    BrokerHarness,
    claim,
    claim_all,
    ids,
    nothing_comes,
    running_attempt,
)
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.waiting import until


async def test_what_is_published_is_claimed_once_over_two_subscriptions(harness: BrokerHarness) -> None:
    refs = await harness.put("q", 60)
    one, two = harness.subscribe(10, "q"), harness.subscribe(10, "q")
    found: list[UUID] = []

    async def work(subscription: Claimer) -> None:
        while deliveries := await subscription.claim(7):
            found.extend(ids(deliveries))
            await harness.finish(*deliveries)
            await subscription.ack(deliveries)

    tasks = [asyncio.create_task(work(each)) for each in (one, two)]
    await until(lambda: len(found) >= 60, PATIENCE, lambda: f"60 claims, {len(found)}")
    await one.stop()
    await two.stop()
    await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    assert sorted(found) == sorted(ref.job_id for ref in refs)
    statuses = await rows(harness.engine, "SELECT status, attempt, count(*) n FROM jobs GROUP BY 1, 2")
    assert [tuple(row.values()) for row in statuses] == [("succeeded", 1, 60)]


async def test_a_claim_carries_what_the_job_needs(harness: BrokerHarness) -> None:
    fields = {
        "payload": '{"n":1}',
        "timeout": 5.0,
        "retry": '{"max_attempts":2}',
        "tags": ("a",),
        "traceparent": "00-x",
    }
    (ref,) = await harness.put("q", 1, **fields)
    subscription = harness.subscribe(1, "q")
    (delivery,) = await claim(subscription)
    got = delivery.claim
    assert (got.job.id, got.job.attempt, got.job.status, got.job.payload) == (ref.job_id, 1, "running", '{"n":1}')
    assert (got.timeout, got.retry, got.job.tags, got.traceparent) == (5.0, '{"max_attempts":2}', ["a"], "00-x")


async def test_a_claim_waits_for_work(harness: BrokerHarness) -> None:
    await harness.put("q")
    subscription = harness.subscribe(5, "q")
    await claim_all(harness, subscription, 1)
    waiting = asyncio.ensure_future(subscription.claim(5))
    await asyncio.wait([waiting], timeout=0.3)
    assert not waiting.done()
    (ref,) = await harness.put("q")
    assert ids(await asyncio.wait_for(waiting, PATIENCE)) == [ref.job_id]


async def test_a_claim_is_no_larger_than_asked_for(harness: BrokerHarness) -> None:
    await harness.put("q", 10)
    subscription = harness.subscribe(10, "q")
    sizes = []
    while sum(sizes) < 10:
        deliveries = await claim(subscription, 3)
        sizes.append(len(deliveries))
    assert max(sizes) <= 3
    assert min(sizes) >= 1


async def test_what_has_no_slot_is_left_to_others(harness: BrokerHarness) -> None:
    """A worker with full slots holds no further messages."""
    refs = await harness.put("q", 10)
    busy = harness.subscribe(3, "q")
    taken = []
    while len(taken) < 3:
        taken += await claim(busy, 3 - len(taken))
    idle = harness.subscribe(10, "q")
    rest = await claim_all(harness, idle, 7)
    assert sorted(ids(taken) + ids(rest)) == sorted(ref.job_id for ref in refs)


async def test_doubled_references_are_claimed_once(harness: BrokerHarness) -> None:
    refs = await harness.put("q", 5)
    for _ in range(3):
        await harness.broker.publish(refs)
    subscription = harness.subscribe(20, "q")
    found = await claim_all(harness, subscription, 5)
    assert sorted(ids(found)) == sorted(ref.job_id for ref in refs)
    (last,) = await harness.put("q")
    assert ids(await claim_all(harness, subscription, 1)) == [last.job_id]
    assert {row["attempt"] for row in await rows(harness.engine, "SELECT attempt FROM attempts")} == {1}


async def test_what_is_settled_is_gone(harness: BrokerHarness) -> None:
    await harness.put("q", 5)
    first = harness.subscribe(5, "q")
    await claim_all(harness, first, 5)
    await first.stop()
    await harness.vanish(first)
    (marker,) = await harness.put("q")
    second = harness.subscribe(5, "q")
    assert ids(await claim_all(harness, second, 1)) == [marker.job_id]
    assert await nothing_comes(second)
    assert (await harness.broker.depths(["q"])).get("q", 0) == 0


async def test_what_a_vanished_worker_had_not_claimed_goes_to_another(harness: BrokerHarness) -> None:
    refs = await harness.put("q", 5)
    gone = harness.subscribe(5, "q")
    (claimed,) = await claim(gone, 1)
    await harness.vanish(gone)
    rest = await claim_all(harness, harness.subscribe(5, "q"), 4)
    assert sorted(ids(rest)) == sorted(ref.job_id for ref in refs if ref.job_id != claimed.claim.job.id)


async def test_what_a_vanished_worker_had_claimed_comes_back_by_rescue(harness: BrokerHarness) -> None:
    """Its message may be delivered again before that, and is stale: the lease is in the ledger."""
    (ref,) = await harness.put("q")
    gone = harness.subscribe(1, "q")
    (delivery,) = await claim(gone)
    await harness.vanish(gone)
    other = harness.subscribe(5, "q")
    waiting = asyncio.ensure_future(other.claim(5))
    await asyncio.wait([waiting], timeout=1.5)
    assert not waiting.done()

    async with transaction(harness.engine) as conn:
        (abandoned,) = await workers.abandoned(conn, 30, 10)
    assert (abandoned.job_id, abandoned.attempt) == (ref.job_id, 1)
    assert await settle(harness.engine, harness.broker, [transitions.crashed(abandoned, 0.0)]) == [True]
    relay = Relay(harness.engine, harness.broker, PollConnection(harness.engine))
    await until(relay.run_once, PATIENCE, "the relay to publish it again")
    (again,) = await asyncio.wait_for(waiting, PATIENCE)
    assert (again.claim.job.id, again.claim.job.attempt, again.claim.crashes) == (ref.job_id, 2, 1)
    assert not any(
        await settle(harness.engine, harness.broker, [transitions.succeeded(running_attempt(delivery), "{}")])
    )
    await harness.finish(again)


async def test_a_stopped_subscription_claims_nothing(harness: BrokerHarness) -> None:
    subscription = harness.subscribe(5, "q")
    waiting = asyncio.ensure_future(subscription.claim(5))
    await asyncio.wait([waiting], timeout=0.3)
    await subscription.stop()
    assert await asyncio.wait_for(waiting, PATIENCE) == []
    await harness.put("q")
    assert await asyncio.wait_for(subscription.claim(5), PATIENCE) == []


async def test_what_was_delivered_and_not_claimed_goes_back_at_a_stop(harness: BrokerHarness) -> None:
    await harness.put("q", 8)
    stopping = harness.subscribe(8, "q")
    (taken,) = await claim(stopping, 1)
    await stopping.stop()
    assert len(await claim_all(harness, harness.subscribe(8, "q"), 7)) == 7
    await harness.finish(taken)
    await stopping.ack([taken])
    statuses = await rows(harness.engine, "SELECT DISTINCT status, attempt FROM jobs")
    assert [tuple(row.values()) for row in statuses] == [("succeeded", 1)], "no attempt was burned"


async def test_a_new_queue_is_served_from_the_next_word_on(harness: BrokerHarness) -> None:
    await harness.put("one")
    await harness.put("two")
    subscription = harness.subscribe(5, "one")
    (first,) = await claim_all(harness, subscription, 1)
    assert first.claim.job.queue == "one"
    waiting = asyncio.ensure_future(subscription.claim(5))
    await asyncio.wait([waiting], timeout=0.3)
    assert not waiting.done()
    subscription.serve(["one", "two"])
    (second,) = await asyncio.wait_for(waiting, PATIENCE)
    assert second.claim.job.queue == "two"


async def test_what_is_late_is_not_claimed(harness: BrokerHarness) -> None:
    await harness.put("q", 3, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    (good,) = await harness.put("q", expires_at=datetime.now(UTC) + timedelta(hours=1))
    subscription = harness.subscribe(5, "q")
    assert ids(await claim_all(harness, subscription, 1)) == [good.job_id]
    assert await nothing_comes(subscription)


async def test_two_queues_and_one_slot_hoard_nothing(harness: BrokerHarness) -> None:
    refs = await harness.put("one") + await harness.put("two")
    busy = harness.subscribe(1, "one", "two")
    (taken,) = await claim(busy, 1)
    idle = harness.subscribe(1, "one", "two")
    (other,) = await asyncio.wait_for(idle.claim(1), 15)
    assert {taken.claim.job.id, other.claim.job.id} == {ref.job_id for ref in refs}


async def test_a_busy_subscription_takes_again_once_it_asks(harness: BrokerHarness) -> None:
    await harness.put("one", 3)
    await harness.put("two", 3)
    subscription = harness.subscribe(1, "one", "two")
    (taken,) = await claim(subscription, 1)
    await asyncio.wait([asyncio.ensure_future(asyncio.sleep(SHORT))])  # longer than a delivery may wait for a slot
    await harness.finish(taken)
    await subscription.ack([taken])
    assert len(await claim_all(harness, subscription, 5, most=1)) == 5


async def test_depths(harness: BrokerHarness) -> None:
    await harness.put("q", 7)
    depths = await harness.broker.depths(["q", "never-seen"])
    assert depths == ({"q": 7, "never-seen": 0} if harness.kind == "rabbitmq" else {})


async def test_no_reference_is_rejected(harness: BrokerHarness) -> None:
    await harness.put("q", 1)
    subscription = harness.subscribe(1, "q")
    assert await harness.broker.count_rejected() == 0
    await claim_all(harness, subscription, 1)
    assert await harness.broker.count_rejected() == 0


async def test_check_says_ok(harness: BrokerHarness) -> None:
    assert await harness.broker.check() == "ok"


async def test_the_higher_priority_is_claimed_first(harness: BrokerHarness, database_url: str) -> None:
    """A queue with priorities is limited: few references are published, and the order is the ledger's."""
    for priority in (0, 9, 4):
        await limited.put(harness.engine, harness.broker, 2, priority=priority)
    await limited.a_worker(harness.engine, slots=1)
    limiter = limited.a_limiter(harness.engine, harness.broker, database_url)
    subscription = harness.subscribe(1, "q")
    found = []
    for _ in range(6):
        assert await limiter.run_once() == 1
        found += [one.claim.job.priority for one in await claim_all(harness, subscription, 1)]
    assert found == [9, 9, 4, 4, 0, 0]


async def test_a_reference_to_what_is_finished_waiting_or_running_changes_nothing(harness: BrokerHarness) -> None:
    (done,) = await harness.put("q")
    subscription = harness.subscribe(10, "q")
    await claim_all(harness, subscription, 1)
    (retried,) = await harness.put("q")
    await do(harness.engine, "UPDATE jobs SET attempt = 2 WHERE id = :id", id=retried.job_id)
    await do(harness.engine, "UPDATE outbox SET attempt = 2 WHERE job_id = :id", id=retried.job_id)
    stale = [JobRef(done.job_id, n, "q", "noop", 4) for n in (0, 1, 5)]
    await harness.broker.publish(stale)
    if harness.kind == "rabbitmq":
        await harness.broker.publish([JobRef(retried.job_id, 2, "q", "noop", 4)])
    (delivery,) = await claim_all(harness, subscription, 1)
    assert (delivery.claim.job.id, delivery.claim.job.attempt) == (retried.job_id, 3)
    (attempts,) = await rows(harness.engine, "SELECT count(*) n FROM attempts WHERE job_id = :id", id=done.job_id)
    assert attempts["n"] == 1
