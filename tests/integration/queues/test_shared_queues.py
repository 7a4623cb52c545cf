"""A queue that a second tenant comes to is limited: the tenants take turns on it."""

import asyncio
from contextlib import AsyncExitStack

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.services.jobs.submission import Submission, Submissions
from accepted.storage import queue_load, queue_tenants, queues
from accepted.storage.db.engine import transaction
from accepted.storage.tenants import put_share
from accepted_worker.scheduler.housekeeping import Sampler
from tests.support.ledger.jobs import a_job
from tests.support.ledger.limited_queue import Queue, a_worker, counted
from tests.support.ledger.sql import do, rows


async def limited(engine: AsyncEngine) -> list[str]:
    return [row["name"] for row in await rows(engine, "SELECT name FROM queues WHERE limited ORDER BY name")]


async def announce(engine: AsyncEngine, *pairs: queue_tenants.Pair) -> None:
    async with transaction(engine) as conn:
        await queue_tenants.announce(conn, pairs)
        await conn.commit()


async def test_a_queue_of_one_tenant_is_plain_and_is_limited_from_its_second_on(queue: Queue) -> None:
    await queue.put(2, tenant="a")
    await queue.put(1, tenant="b", queue="other")
    assert await limited(queue.engine) == []
    await queue.put(1, tenant="b")
    assert await limited(queue.engine) == ["q"]
    await queue.put(1, tenant="a")
    assert await counted(queue.engine, "on_hold AND tenant = 'a'") == 1


async def test_what_was_published_before_the_second_tenant_came_is_held(queue: Queue) -> None:
    first = await queue.put(3, tenant="a")
    second = await queue.put(1, tenant="b")
    worker = await a_worker(queue.engine, 10)
    assert await queue.claim(worker) == [], "nothing was admitted yet"
    while await queue.limiter.run_once():
        pass
    assert {one.job.id for one in await queue.claim(worker)} == {*first, *second}


async def test_two_tenants_that_come_at_once_do_not_overlook_each_other(engine: AsyncEngine) -> None:
    """Neither transaction sees the pair that the other has not committed."""
    await announce(engine, ("q", "first"))
    await do(engine, "DELETE FROM queue_tenants")
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(transaction(engine))
        await queue_tenants.announce(one, [("q", "a")])
        other = asyncio.create_task(announce(engine, ("q", "b")))
        await asyncio.wait([other], timeout=0.3)
        assert not other.done(), "it waits for the lock of the queue"
        await one.commit()
        await other
    assert await limited(engine) == ["q"]


async def test_submissions_write_a_pair_once(engine: AsyncEngine) -> None:
    submissions = Submissions(engine, PostgresBroker(engine, ""), 60)
    for tenant in ("a", "a", "b", "a"):
        await submissions.accept(Submission(a_job(queue="q", tenant=tenant)))
    found = await rows(engine, "SELECT tenant FROM queue_tenants WHERE queue = 'q' ORDER BY tenant")
    assert [row["tenant"] for row in found] == ["a", "b"]
    assert await counted(engine, "on_hold") == 2
    await do(engine, "DELETE FROM queue_tenants")
    await submissions.accept(Submission(a_job(queue="q", tenant="a")))
    assert await rows(engine, "SELECT 1 FROM queue_tenants") == [], "a known pair costs nothing"
    submissions.forget_queues()
    await submissions.accept(Submission(a_job(queue="q", tenant="a")))
    assert len(await rows(engine, "SELECT 1 FROM queue_tenants")) == 1
    await submissions.close()


async def test_the_sampler_finds_pairs_that_are_missing(queue: Queue) -> None:
    for tenant, fields in (("a", {}), ("b", {"delay": 3600.0})):
        await queue.put(1, tenant=tenant, **fields)
    worker = await a_worker(queue.engine, 1)
    await do(queue.engine, "UPDATE queues SET limited = false")
    assert len(await queue.claim(worker)) == 1
    await do(queue.engine, "DELETE FROM queue_tenants")
    assert await Sampler(queue.engine).run_once() == 2
    assert await limited(queue.engine) == ["q"]
    async with transaction(queue.engine) as conn:
        found = sorted(one.pair for one in await queue_load.sample(conn))
    assert found == [("q", "a"), ("q", "b")], "what runs, and what is not due"


async def test_a_queue_is_owned_by_who_used_it_alone(engine: AsyncEngine) -> None:
    await announce(engine, ("mine", "a"), ("ours", "a"), ("ours", "b"))
    async with transaction(engine) as conn:
        assert await queues.may_own(conn, "mine", "a")
        assert await queues.may_own(conn, "new", "a")
        assert not await queues.may_own(conn, "mine", "b")
        assert not await queues.may_own(conn, "ours", "a")
        await queues.delete(conn, "ours", "a", 30.0)
        assert await queues.may_own(conn, "ours", "b"), "it goes with its pairs"


async def test_a_queue_that_is_shared_is_limited_again_by_the_sampler(engine: AsyncEngine) -> None:
    """A share that is set just when the tenant comes does not see the pair, nor the pair the share."""
    await announce(engine, ("ours", "a"), ("ours", "b"), ("capped", "c"), ("plain", "d"))
    async with transaction(engine) as conn:
        await put_share(conn, "c", None, 5)
        await conn.commit()
    await do(engine, "UPDATE queues SET limited = false")
    async with transaction(engine) as conn:
        await queues.limit_again(conn, ["capped", "ours", "plain"])
        await conn.commit()
    assert await limited(engine) == ["capped", "ours"]
