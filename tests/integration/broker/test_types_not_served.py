"""Jobs whose type a worker of their queue does not serve, on both brokers: only those claim them that do."""

import asyncio
from uuid import UUID

from accepted.services.jobs.claiming import Claimer
from accepted.storage import workers
from accepted.storage.db.engine import transaction
from accepted_worker.scheduler.relay import Reconciler, Relay
from tests.support.ledger import limited_queue as limited
from tests.support.ledger.brokers import PATIENCE, BrokerHarness, claim_all, ids, nothing_comes
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.waiting import until


async def waits(harness: BrokerHarness, type_: str) -> list[UUID]:
    """The jobs of this type that were set aside."""
    found = await rows(harness.engine, "SELECT job_id FROM outbox WHERE unserved = :type ORDER BY 1", type=type_)
    return [row["job_id"] for row in found]


async def untouched(harness: BrokerHarness, type_: str) -> bool:
    """No attempt at a job of this type was ever made."""
    found = await rows(harness.engine, "SELECT status, attempt FROM jobs WHERE type = :type", type=type_)
    made = await rows(
        harness.engine, "SELECT 1 FROM attempts t JOIN jobs j ON j.id = t.job_id WHERE j.type = :type", type=type_
    )
    return not made and {(row["status"], row["attempt"]) for row in found} == {("queued", 0)}


async def test_a_type_that_nobody_serves_waits_without_an_attempt(harness: BrokerHarness) -> None:
    """It holds up nothing behind it, is not brought again and again, and runs once a worker serves it."""
    foreign = [ref.job_id for ref in await harness.put("q", 5, type="foreign")]
    ours = await harness.put("q", 3)
    one = harness.subscribe(2, "q", types=["noop", "sleep"])
    assert sorted(ids(await claim_all(harness, one, 3))) == sorted(ref.job_id for ref in ours)
    await until(lambda: _all_aside(harness, foreign), PATIENCE, "all to be set aside")
    assert (await harness.broker.depths(["q"])).get("q", 0) == 0
    await one.look_for_set_aside()
    assert await nothing_comes(one)
    assert await untouched(harness, "foreign")

    await do(harness.engine, "UPDATE outbox SET due_at = due_at - interval '1 minute'")
    assert await Reconciler(harness.engine, harness.broker).run_once() == 0, "they are not lost"
    assert await Relay(harness.engine, harness.broker, PollConnection(harness.engine)).run_once() == 0

    other = harness.subscribe(2, "q", types=["foreign"])
    looking = asyncio.create_task(_look_again_and_again(other))
    assert sorted(ids(await claim_all(harness, other, 5))) == sorted(foreign)
    looking.cancel()
    attempts = await rows(harness.engine, "SELECT attempt, outcome FROM attempts")
    assert {(row["attempt"], row["outcome"]) for row in attempts} == {(1, "succeeded")}


async def test_workers_of_two_types_on_one_queue_run_each_their_own(harness: BrokerHarness) -> None:
    made = {type_: await harness.put("q", 20, type=type_) for type_ in ("a", "b")}
    found: dict[str, list[UUID]] = {"a": [], "b": []}
    claimers = {type_: harness.subscribe(3, "q", types=[type_]) for type_ in ("a", "b")}

    async def work(type_: str) -> None:
        while deliveries := await claimers[type_].claim(3):
            assert {each.claim.job.type for each in deliveries} == {type_}
            found[type_] += ids(deliveries)
            await harness.finish(*deliveries)
            await claimers[type_].ack(deliveries)

    working = [asyncio.create_task(work(type_)) for type_ in found]
    looking = [asyncio.create_task(_look_again_and_again(one)) for one in claimers.values()]
    await until(lambda: sum(map(len, found.values())) >= 40, PATIENCE, lambda: f"40 claims, {found}")
    for one in claimers.values():
        await one.stop()
    await asyncio.wait_for(asyncio.gather(*working), PATIENCE)
    for task in looking:
        task.cancel()
    for type_, refs in made.items():
        assert sorted(found[type_]) == sorted(ref.job_id for ref in refs)
    assert {row["attempt"] for row in await rows(harness.engine, "SELECT attempt FROM attempts")} == {1}


async def test_new_jobs_and_those_set_aside_take_turns(harness: BrokerHarness) -> None:
    """Whoever serves both types is kept from neither by a backlog of the other."""
    aside = [ref.job_id for ref in await harness.put("q", 10, type="foreign")]
    one = harness.subscribe(10, "q", types=["noop"])
    waiting = asyncio.ensure_future(one.claim(10))
    await until(lambda: _all_aside(harness, aside), PATIENCE, "all to be set aside")
    await one.stop()
    await waiting
    await harness.put("q", 10)
    both = harness.subscribe(1, "q", types=["noop", "foreign"])
    looking = asyncio.create_task(_look_again_and_again(both))
    first = [each.claim.job.type for each in await claim_all(harness, both, 10, most=1)]
    looking.cancel()
    assert 2 <= first.count("foreign") <= 8, first


async def test_a_limited_queue_is_not_held_up_by_a_type_that_nobody_serves(
    harness: BrokerHarness, database_url: str
) -> None:
    """One at a time: the first one is not claimed, and takes no room from those behind it, nor its place in the end."""
    await limited.limit(harness.engine, max_running=1)
    await limited.a_worker(harness.engine, 2, ["q"], ["noop"])
    (foreign,) = await limited.put(harness.engine, harness.broker, type="foreign")
    ours = await limited.put(harness.engine, harness.broker, 3)
    one = harness.subscribe(2, "q", types=["noop"])
    async with limited.limiting(harness.engine, harness.broker, database_url):
        assert ids(await claim_all(harness, one, 3)) == ours
        assert await waits(harness, "foreign") == [foreign]
        assert await untouched(harness, "foreign")
        other = harness.subscribe(2, "q", types=["foreign"])
        async with transaction(harness.engine) as conn:
            await workers.heartbeat(conn, UUID(int=7), "able", slots=2, queues=["q"], types=["foreign"])
            await conn.commit()
        looking = asyncio.create_task(_look_again_and_again(other))
        assert ids(await claim_all(harness, other, 1)) == [foreign]
        looking.cancel()
    assert {row["attempt"] for row in await rows(harness.engine, "SELECT attempt FROM attempts")} == {1}


async def _all_aside(harness: BrokerHarness, jobs: list[UUID]) -> bool:
    return await waits(harness, "foreign") == sorted(jobs)


async def _look_again_and_again(claimer: Claimer) -> None:
    """As a worker does, if more often."""
    while True:
        await claimer.look_for_set_aside()
        await asyncio.sleep(0.1)  # the pace of its polls
