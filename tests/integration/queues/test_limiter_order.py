"""The order on a limited queue: keys round robin, priorities strict, whatever the length of a line."""

from tests.support.ledger.limited_queue import Queue, a_worker, counted, limit
from tests.support.ledger.sql import do


async def test_keys_take_turns_and_no_key_is_one_of_them(queue: Queue) -> None:
    worker = await a_worker(queue.engine, 1)
    a = await queue.put(3, concurrency_key="a")
    none = await queue.put(2)
    b = await queue.put(1, concurrency_key="b")
    assert await queue.one_by_one(worker, 6) == [a[0], b[0], none[0], a[1], none[1], a[2]]


async def test_one_of_b_comes_right_after_one_of_ten_thousand_of_a(queue: Queue) -> None:
    worker = await a_worker(queue.engine, 1)
    a = await queue.put(10_000, concurrency_key="a")
    assert await queue.one_by_one(worker, 2) == a[:2]
    (b,) = await queue.put(1, concurrency_key="b")
    assert await queue.one_by_one(worker, 3) == [b, *a[2:4]]


async def test_several_slots_are_shared_out_in_turns(queue: Queue) -> None:
    await a_worker(queue.engine, 6)
    for key, count in (("a", 50), ("b", 50), ("c", 1)):
        await queue.put(count, concurrency_key=key)
    while await queue.limiter.run_once():
        pass
    counts = [await counted(queue.engine, f"admitted AND concurrency_key = '{key}'") for key in "abc"]
    assert sorted(counts) == [1, 2, 3]
    assert counts[2] == 1


async def test_no_more_than_max_running_per_key(queue: Queue) -> None:
    await limit(queue.engine, max_running_per_key=2)
    worker = await a_worker(queue.engine, 100)
    ids = {key: await queue.put(5, concurrency_key=key) for key in ("a", "b", None)}
    while await queue.limiter.run_once():
        pass
    assert await counted(queue.engine, "admitted AND concurrency_key IN ('a', 'b')") == 4
    assert await counted(queue.engine, "admitted AND concurrency_key IS NULL") == 5, "no key is no key of one's own"
    claims = await queue.claim(worker)
    assert await queue.admit() == []
    await queue.finish([one for one in claims if one.job.id == ids["b"][1]])
    assert await queue.admit() == [ids["b"][2]]


async def test_busy_keys_do_not_hide_one_that_is_not(queue: Queue) -> None:
    """Even if any number of keys before it are at their limit."""
    await limit(queue.engine, max_running_per_key=1)
    worker = await a_worker(queue.engine, 100)
    keys = [f"k{number:02}" for number in range(30)]
    for key in keys:
        await queue.put(2, concurrency_key=key)
    while await queue.limiter.run_once():
        pass
    assert len(await queue.claim(worker)) == 30
    await do(queue.engine, "UPDATE workers SET slots = 31")
    await do(queue.engine, "UPDATE queue_tenants SET last_key = 'k00' WHERE queue = 'q'")
    (late,) = await queue.put(1, concurrency_key="zz")
    assert await queue.admit() == [late]


async def test_priorities_are_strict_over_a_queue_without_keys(queue: Queue) -> None:
    worker = await a_worker(queue.engine, 1)
    low = await queue.put(2, priority=0)
    middle = await queue.put(2)
    high = await queue.put(2, priority=9)
    assert await queue.one_by_one(worker, 6) == [*high, *middle, *low]


async def test_a_priority_counts_within_its_turn(queue: Queue) -> None:
    worker = await a_worker(queue.engine, 1)
    a = await queue.put(2, concurrency_key="a", priority=9)
    b_low = await queue.put(1, concurrency_key="b", priority=0)
    b_high = await queue.put(1, concurrency_key="b", priority=5)
    assert await queue.one_by_one(worker, 4) == [a[0], *b_high, a[1], *b_low]
