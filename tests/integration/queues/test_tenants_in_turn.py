"""The order of service on a queue that several tenants use. One round of the limiter at a time; workers are rows."""

from uuid import UUID

from accepted.storage.db.engine import transaction
from accepted.storage.tenants import put_share, remove_share
from tests.support.ledger.limited_queue import Queue, a_worker, admitted, counted, limit
from tests.support.ledger.sql import do, rows


async def share(queue: Queue, tenant: str, weight: int = 1, max_running: int | None = None) -> None:
    async with transaction(queue.engine) as conn:
        await put_share(conn, tenant, weight, max_running)
        await conn.commit()


async def admit_all(queue: Queue) -> dict[str, int]:
    """How many jobs of each tenant are admitted once the limiter has done what it can."""
    while await queue.limiter.run_once():
        pass
    found = await rows(queue.engine, "SELECT tenant, count(*) AS n FROM outbox WHERE admitted GROUP BY tenant")
    return {row["tenant"]: row["n"] for row in found}


async def in_order(queue: Queue, worker: UUID, count: int) -> str:
    """Of which tenants the next `count` jobs are, on one slot."""
    ids = await queue.one_by_one(worker, count)
    found = {row["id"]: row["tenant"] for row in await rows(queue.engine, "SELECT id, tenant FROM jobs")}
    return "".join(found[one] for one in ids)


async def test_tenants_take_turns_however_many_jobs_one_has(queue: Queue) -> None:
    worker = await a_worker(queue.engine, 1)
    for tenant, count in (("a", 500), ("b", 2), ("c", 1)):
        await queue.put(count, tenant=tenant)
    assert await admit_all(queue) == {"a": 1}, "what was published first is held, and one slot given"
    await queue.finish(await queue.claim(worker))
    assert await in_order(queue, worker, 6) == "bcabaa"


async def test_keys_take_turns_within_their_tenant_and_are_its_own(queue: Queue) -> None:
    worker = await a_worker(queue.engine, 1)
    for key in ("k1", "k2", "k3", None):
        await queue.put(2, tenant="a", concurrency_key=key)
    await queue.put(3, tenant="b", concurrency_key="k1")
    assert await in_order(queue, worker, 6) == "ababab"
    found = await rows(
        queue.engine, "SELECT concurrency_key AS k FROM jobs WHERE status = 'succeeded' AND tenant = 'a'"
    )
    assert {row["k"] for row in found} == {"k1", "k2", "k3"}


async def test_a_priority_counts_within_its_tenant(queue: Queue) -> None:
    worker = await a_worker(queue.engine, 1)
    await queue.put(3, tenant="a", priority=9)
    await queue.put(2, tenant="b", priority=0)
    await queue.put(1, tenant="b", priority=9)
    assert await in_order(queue, worker, 6) == "ababab"
    assert (await rows(queue.engine, "SELECT priority AS p FROM jobs WHERE tenant = 'b' ORDER BY started_at"))[0][
        "p"
    ] == 9


async def test_a_key_s_limit_is_its_tenant_s(queue: Queue) -> None:
    await limit(queue.engine, max_running_per_key=1)
    await a_worker(queue.engine, 10)
    for tenant in "ab":
        await queue.put(3, tenant=tenant, concurrency_key="same")
    assert await admit_all(queue) == {"a": 1, "b": 1}


async def test_free_slots_go_to_who_holds_the_fewest(queue: Queue) -> None:
    worker = await a_worker(queue.engine, 10)
    await queue.put(50, tenant="a", priority=9)
    await queue.put(1, tenant="b", delay=3600.0)
    assert await admit_all(queue) == {"a": 9}, "the last slot is for the others"
    long = await queue.claim(worker)
    await queue.put(20, tenant="b")
    await queue.finish(long[:4])
    assert await admit_all(queue) == {"b": 5}, "a holds five slots"
    await queue.claim(worker)
    await queue.finish(long[4:6])
    assert await admit_all(queue) == {"a": 2}, "three against five"


async def test_a_queue_s_limit_is_not_one_tenant_s(queue: Queue) -> None:
    await limit(queue.engine, max_running=4)
    await a_worker(queue.engine, 100)
    await queue.put(50, tenant="a")
    assert await admit_all(queue) == {"a": 4}, "nobody else uses it"
    await queue.put(1, tenant="b", delay=3600.0)
    await limit(queue.engine, max_running=3)
    assert await admit_all(queue) == {"a": 2}


async def test_weights_share_the_slots(queue: Queue) -> None:
    await share(queue, "a", weight=3)
    await a_worker(queue.engine, 8)
    for tenant in "ab":
        await queue.put(20, tenant=tenant, priority=5)
    assert await admit_all(queue) == {"a": 6, "b": 2}


async def test_a_weight_is_the_length_of_a_turn_on_one_slot(queue: Queue) -> None:
    await share(queue, "a", weight=2)
    worker = await a_worker(queue.engine, 1)
    for tenant in "ab":
        await queue.put(6, tenant=tenant, priority=5)
    assert await in_order(queue, worker, 6) == "aabaab"


async def test_a_tenant_s_limit_holds_over_all_queues(queue: Queue) -> None:
    worker = await a_worker(queue.engine, 20)
    await queue.put(9, tenant="a")
    await share(queue, "a", max_running=3)
    assert await queue.claim(worker) == [], "its queues are limited from then on"
    await queue.put(9, tenant="a", queue="new")
    assert await admit_all(queue) == {"a": 3}
    assert len(await queue.claim(worker)) + await counted(queue.engine, "admitted AND queue = 'new'") == 3
    assert await admit_all(queue) in ({"a": 3}, {}), "what runs counts, too"
    async with transaction(queue.engine) as conn:
        assert await remove_share(conn, "a")
        await conn.commit()
    assert sum((await admit_all(queue)).values()) > 3


async def test_a_tenant_whose_limit_another_limiter_looks_at_is_passed_over(queue: Queue) -> None:
    await share(queue, "a", max_running=2)
    await a_worker(queue.engine, 10)
    await queue.put(3, tenant="a")
    (b,) = await queue.put(1, tenant="b")
    async with transaction(queue.engine) as other:
        await other.exec_driver_sql("SELECT * FROM tenant_shares FOR UPDATE")
        assert await queue.admit() == [b]
        assert queue.limiter.pause(0) < 0.1, "it looks again soon"
    assert len(await queue.admit()) == 3


async def test_more_tenants_than_one_round_looks_at(queue: Queue) -> None:
    """The first hundred may start nothing: the round after looks at those behind them."""
    await limit(queue.engine, max_running_per_key=1)
    worker = await a_worker(queue.engine, 1000)
    for number in range(101):
        await queue.put(2, tenant=f"t{number:03}", concurrency_key="k")
    assert sum((await admit_all(queue)).values()) == 101
    await queue.claim(worker, 1000)
    (late,) = await queue.put(1, tenant="zz", concurrency_key="k")
    await do(queue.engine, "UPDATE queues SET last_tenant = NULL")
    assert await queue.admit() == [], "these run one each"
    assert await queue.limiter.run_once() == 1
    assert await admitted(queue.engine) == [late]
