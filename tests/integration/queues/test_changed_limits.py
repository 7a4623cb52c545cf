"""What is stored under a limit (the last start, what was used of a quota) holds no job back under another limit."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.tenants import TenantQuota
from accepted.storage import targets, tenants
from accepted.storage.db import periodic_locks
from accepted.storage.db.engine import transaction
from accepted.storage.targets import Tried
from accepted.storage.tenants import TakenQuota
from tests.support.ledger.limited_queue import Queue, a_worker, limit
from tests.support.ledger.sql import do, rows
from tests.support.waiting import until

DAY = 86400.0


@pytest.fixture
def queue(engine: AsyncEngine, database_url: str) -> Queue:
    return Queue(engine, PostgresBroker(engine, database_url), database_url)


@pytest.mark.parametrize(
    "changes",
    [
        [{"rate_jobs": 100, "rate_per": 1.0}],
        [{"rate_jobs": None, "rate_per": None}],
        [{"rate_jobs": None, "rate_per": None}, {"rate_jobs": 100, "rate_per": 1.0}],
        [{"rate_jobs": 2, "rate_per": DAY}, {"rate_jobs": 1, "rate_per": 0.1}],
        [{"rate_jobs": 1, "rate_per": DAY, "paused": True}, {"paused": False, "rate_jobs": 10, "rate_per": 1.0}],
    ],
    ids=["raised", "removed", "through null", "in steps", "through a pause"],
)
async def test_a_slow_rate_leaves_nothing_behind(queue: Queue, changes: list[dict[str, Any]]) -> None:
    await limit(queue.engine, rate_jobs=1, rate_per=DAY)
    worker = await a_worker(queue.engine, 5)
    ids = await queue.put(3)
    assert await queue.admit() == ids[:1]
    assert len(await queue.claim(worker)) == 1
    assert await queue.admit() == []
    for change in changes:
        await limit(queue.engine, **change)

    async def next_starts() -> bool:
        return ids[1] in await queue.admit()

    await until(next_starts, 20, "the next job to be admitted under the new rate")


@pytest.mark.parametrize("through_null", [False, True])
async def test_a_slower_rate_counts_from_the_last_start(queue: Queue, through_null: bool) -> None:
    await limit(queue.engine, rate_jobs=100, rate_per=1.0)
    worker = await a_worker(queue.engine, 50)
    ids = await queue.put(3)
    assert await queue.admit() == ids[:1]
    assert len(await queue.claim(worker)) == 1
    if through_null:
        await limit(queue.engine, rate_jobs=None, rate_per=None)
    await limit(queue.engine, rate_jobs=1, rate_per=DAY)
    assert await queue.admit() == []
    await do(queue.engine, "UPDATE queues SET last_start = last_start - interval '1 day'")
    assert await queue.admit() == ids[1:2]


async def test_a_clock_that_was_set_back_costs_one_interval_at_most(queue: Queue) -> None:
    await limit(queue.engine, rate_jobs=10, rate_per=1.0)
    worker = await a_worker(queue.engine, 5)
    ids = await queue.put(2)
    assert await queue.admit() == ids[:1]
    assert len(await queue.claim(worker)) == 1
    await do(queue.engine, "UPDATE queues SET last_start = last_start + interval '1 day'")

    async def next_starts() -> bool:
        return await queue.admit() == ids[1:]

    assert not await next_starts()
    await until(next_starts, 20, "the next job to be admitted")


async def test_a_job_that_a_change_puts_back_on_hold_has_not_started(queue: Queue) -> None:
    """However often the limits change, the rate is not used up by jobs that nobody claimed."""
    await limit(queue.engine, rate_jobs=1, rate_per=DAY)
    worker = await a_worker(queue.engine, 5)
    ids = [*await queue.put(1), *await queue.put(1)]
    assert await queue.admit() == ids[:1]
    for most in (3, 4, 5):
        await limit(queue.engine, max_running=most)
        assert await queue.admit() == ids[:1]
    assert len(await queue.claim(worker)) == 1
    await limit(queue.engine, max_running=6)
    assert await queue.admit() == [], "this one has started"


async def test_a_new_quota_settles_what_the_former_one_gave_back(engine: AsyncEngine) -> None:
    await quota(engine, 10, 1.0)
    assert (await take(engine, 10)).granted == 10
    await do(engine, "UPDATE quotas SET counted_at = counted_at - interval '1 hour'")
    assert (await quota(engine, 10, DAY)).remaining == 10, "all of it came back within a second"
    assert (await take(engine, 4)).granted == 4
    assert (await quota(engine, 10, DAY)).remaining == 6, "setting the same again changes nothing"
    assert (await quota(engine, 100, DAY)).remaining == 96


async def test_a_quota_goes_on_after_the_clock_was_set_back(engine: AsyncEngine) -> None:
    await quota(engine, 2, 0.2)
    assert (await take(engine, 2)).granted == 2
    await do(engine, "UPDATE quotas SET counted_at = counted_at + interval '1 day'")

    async def one_more() -> bool:
        return (await take(engine, 1)).granted == 1

    assert not await one_more()
    await until(one_more, 20, "a job to be allowed again")


async def test_a_periodic_lock_from_the_future_can_be_taken(engine: AsyncEngine) -> None:
    async def take_lock() -> bool:
        async with transaction(engine) as conn:
            taken = await periodic_locks.take(conn, "sampler", 60.0)
            await conn.commit()
        return taken

    assert [await take_lock(), await take_lock()] == [True, False]
    await do(engine, "UPDATE periodic_locks SET taken_at = taken_at + interval '1 day'")
    assert [await take_lock(), await take_lock()] == [True, False]
    (row,) = await rows(engine, "SELECT taken_at - now() AS ahead FROM periodic_locks")
    assert row["ahead"] <= timedelta(0)


async def test_a_host_deferred_in_the_future_is_tried(engine: AsyncEngine) -> None:
    """Its deferral began before the clock was set back: without this it would last as much longer."""
    async with transaction(engine) as conn:
        await targets.defer(conn, "t", "partner:443", 60.0, None)
        await conn.commit()
    assert (await try_(engine)).fence is None
    later = "deferred_until = deferred_until + interval '1 day', updated_at = updated_at + interval '1 day'"
    await do(engine, f"UPDATE targets SET {later}")
    assert (await try_(engine)).fence is not None
    assert (await try_(engine)).fence is None, "one tries it"


async def try_(engine: AsyncEngine) -> Tried:
    async with transaction(engine) as conn:
        found = await targets.try_(conn, "t", "partner:443", 30.0)
        await conn.commit()
    assert found is not None
    return found


async def quota(engine: AsyncEngine, jobs: int, per: float) -> TenantQuota:
    """Set it, and read it."""
    async with transaction(engine) as conn:
        await tenants.put_quota(conn, "t", jobs, per)
        await conn.commit()
    async with transaction(engine) as conn:
        found = await tenants.quota_of(conn, "t")
    assert found is not None
    return found


async def take(engine: AsyncEngine, jobs: int) -> TakenQuota:
    async with transaction(engine) as conn:
        taken = await tenants.take_quota(conn, "t", jobs)
        await conn.commit()
    assert taken is not None
    return taken
