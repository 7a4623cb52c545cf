"""A lease request that waits on a limited queue is room for jobs of its tenant and types, and for no others."""

from accepted.broker.postgres import PostgresBroker
from tests.support.clients.lease_client import one_lease, register, service
from tests.support.ledger.limited_queue import Queue, a_worker, admitted, limit, put
from tests.support.ledger.sql import do


async def test_what_nobody_waits_for_does_not_stand_in_the_way(queue: Queue) -> None:
    await limit(queue.engine, max_running=2)
    await queue.put(3, tenant="t")
    await queue.put(3, tenant="u", type="other")
    await queue.put(1, tenant="u", type="webhook.deliver")
    mine = [(await queue.put(1, tenant="u", type="mine"))[0] for _ in range(3)]
    await a_worker(queue.engine, 5, ["q"], ["mine"], tenant="u")
    assert await queue.admit() == mine[:2]


async def test_keys_that_nobody_waits_for_take_no_turn(queue: Queue) -> None:
    await limit(queue.engine, max_running=100)
    for number in range(20):
        await queue.put(1, tenant="t", concurrency_key=f"k{number:02}")
    (mine,) = await queue.put(1, tenant="u", concurrency_key="k19")
    await a_worker(queue.engine, 1, ["q"], tenant="u")
    assert await queue.admit() == [mine]


async def test_slots_are_for_what_comes_first_and_leases_for_what_is_waited_for(queue: Queue) -> None:
    await limit(queue.engine, max_running=100)
    theirs = [(await queue.put(1, tenant="t"))[0] for _ in range(5)]
    mine = [(await queue.put(1, tenant="u"))[0] for _ in range(5)]
    await a_worker(queue.engine, 2, ["q"])
    await a_worker(queue.engine, 3, ["q"], tenant="u")
    assert sorted(await queue.admit()) == sorted([*theirs[:1], *mine[:4]]), "one slot each, and the leases"
    assert len(await queue.admit()) == 5


async def test_what_nobody_comes_for_any_more_gives_its_room_back(queue: Queue) -> None:
    await limit(queue.engine, max_running=1)
    theirs = [(await queue.put(1, tenant="t"))[0] for _ in range(2)]
    mine = await queue.put(1, tenant="u")
    waits = await a_worker(queue.engine, 1, ["q"], tenant="t")
    assert await queue.admit() == theirs[:1]
    await do(queue.engine, "DELETE FROM workers WHERE id = :id", id=waits)
    await a_worker(queue.engine, 1, ["q"], tenant="u")
    assert await queue.admit() == []
    assert queue.limiter.pause(0) == 0.0
    assert await queue.admit() == mine
    await do(queue.engine, "DELETE FROM outbox WHERE job_id = :id", id=mine[0])
    await a_worker(queue.engine, 1, ["q"])
    assert await queue.admit() == theirs[:1], "in its old place"


async def test_a_slot_that_was_filled_from_elsewhere_does_not_keep_who_waits(queue: Queue) -> None:
    await limit(queue.engine, max_running=1)
    await queue.put(1, tenant="t")
    mine = await queue.put(1, tenant="u")
    worker = await a_worker(queue.engine, 1, ["q", "elsewhere"])
    assert len(await queue.admit()) == 1
    await a_worker(queue.engine, 1, ["q"], tenant="u")
    assert await queue.admit() != mine
    await do(queue.engine, "UPDATE workers SET slots = 0 WHERE id = :id", id=worker)
    await queue.admit()
    assert await queue.admit() == mine


async def test_the_head_of_another_tenant_does_not_hold_up_a_lease(database_url: str) -> None:
    async with service(database_url, lease_ttl=30) as one:
        client = await one.client()
        await register(client)
        assert (await client.http.patch("/queues/node", json={"max_running": 1})).status_code == 200
        await put(one.state.engine, PostgresBroker(one.state.engine, database_url), 3, queue="node", tenant="another")
        job = await client.submit("node.echo")
        assert (await one_lease(client))["job"]["id"] == job["id"]
        assert await admitted(one.state.engine) == []
