"""A limited queue whose jobs are of several types: each is admitted for those who serve it, and hides no other."""

from uuid import UUID

import pytest

from accepted.storage.attempts.claims import Claimed, claim_next, claim_unserved, unserved_kinds
from accepted.storage.db.engine import transaction
from tests.support.ledger.brokers import BrokerHarness, nothing_comes
from tests.support.ledger.limited_queue import Queue, a_limiter, a_worker, admitted, counted, limit, put
from tests.support.ledger.sql import do


async def test_a_type_that_no_worker_serves_is_not_admitted_for_their_slots(queue: Queue) -> None:
    """It keeps its place in the line, and is passed over while nobody with its type has a free slot."""
    await limit(queue.engine, max_running=1)
    worker = await a_worker(queue.engine, 2, types=["noop"])
    (foreign,) = await queue.put(type="foreign")
    first, second = await queue.put(2)
    assert await queue.admit() == []
    assert queue.limiter.pause(0) == 0.0, "something may stand behind it"
    assert await queue.admit() == [first]
    (claimed,) = await _claim(queue, worker, ["noop"])
    able = await a_worker(queue.engine, 1, types=["foreign"])
    assert await queue.admit() == [], "one runs"
    await queue.finish([claimed])
    assert await queue.admit() == [foreign]
    assert await _claim(queue, worker, ["noop"]) == [], "it is not met"
    await do(queue.engine, "DELETE FROM workers WHERE id = :id", id=able)
    assert await queue.admit() == [foreign], "its worker may be about to claim it"
    await do(queue.engine, "UPDATE outbox SET due_at = due_at - interval '6 seconds' WHERE admitted")
    assert await queue.admit() == [second]
    (claimed,) = await _claim(queue, worker, ["noop"])
    assert claimed.job.id == second
    await queue.finish([claimed])
    assert await queue.admit() == []
    await a_worker(queue.engine, 1, types=["foreign"])
    assert await queue.admit() == [foreign]
    async with transaction(queue.engine) as conn:
        assert await unserved_kinds(conn) == [("q", "foreign")]
        (last,) = await claim_unserved(conn, worker, [("q", "foreign")], 1)
        await conn.commit()
    assert (last.job.id, last.job.attempt) == (foreign, 1)


async def test_what_only_one_worker_serves_takes_only_its_slots(queue: Queue) -> None:
    """A worker of its type with one free slot does not let it take the room of all others."""
    await limit(queue.engine, max_running=100)
    await a_worker(queue.engine, 10, types=["noop"])
    foreign = await queue.put(20, type="foreign")
    await a_worker(queue.engine, 1, types=["foreign"])
    ours = await queue.put(3)
    for _ in range(4):
        await queue.admit()
    assert await admitted(queue.engine) == [foreign[0], *ours]


async def test_a_long_line_that_nobody_serves_hides_nothing_for_long(queue: Queue) -> None:
    """Rows are set aside by the hundred, whatever the number of free slots and of keys."""
    await limit(queue.engine, max_running=100)
    await a_worker(queue.engine, 1, types=["noop"])
    for key in (None, "a", "b"):
        await queue.put(500, type="foreign", concurrency_key=key)
    (ours,) = await queue.put(1, concurrency_key="b")
    rounds = 0
    while not await queue.admit():
        rounds += 1
        assert rounds < 12
    assert await admitted(queue.engine) == [ours]


async def test_a_worker_that_turns_to_other_queues_keeps_no_slot_of_others(queue: Queue) -> None:
    """What was admitted for it stays so where no limit counts it, and takes no room."""
    busy = await a_worker(queue.engine, 3, ["q", "r"], ["mine"])
    await a_worker(queue.engine, 2, ["q"], ["noop"])
    await queue.put(3, type="mine", priority=9)
    assert len(await queue.admit()) == 3
    await do(queue.engine, "UPDATE workers SET slots = 0 WHERE id = :id", id=busy)
    ours = await queue.put(2)
    await queue.admit()
    assert set(ours) <= set(await admitted(queue.engine))


async def test_a_lease_does_not_wait_behind_those_that_workers_run(queue: Queue) -> None:
    """A request for any type has room beside the slots of workers, which jobs of its tenant keep filled."""
    await a_worker(queue.engine, 2, types=["noop"])
    theirs = [(await queue.put(1, priority=9))[0] for _ in range(5)]
    (mine,) = await queue.put(1, type="foreign")
    await a_worker(queue.engine, 1, ["q"], tenant="t")
    await queue.admit()
    assert set(await admitted(queue.engine)) == set(theirs[:3]), "by priority"
    await do(queue.engine, "DELETE FROM outbox WHERE job_id = ANY(:ids)", ids=[*theirs[:1], *theirs[3:]])
    await queue.admit()
    assert mine in await admitted(queue.engine)


async def test_what_a_request_waited_for_stays_admitted_where_it_takes_no_room(queue: Queue) -> None:
    """The client may come back: it polls now and then, without waiting."""
    await a_worker(queue.engine, 2, types=["noop"])
    (mine,) = await queue.put(1, type="foreign", priority=9)
    gone = await a_worker(queue.engine, 1, ["q"], ["foreign"], tenant="t")
    assert await queue.admit() == [mine]
    await do(queue.engine, "DELETE FROM workers WHERE id = :id", id=gone)
    await do(queue.engine, "UPDATE outbox SET due_at = due_at - interval '1 hour'")
    assert await queue.admit() == [mine]
    ours = await queue.put(2)
    await queue.admit()
    assert await admitted(queue.engine) == [mine, *ours]
    await limit(queue.engine, max_running=2)
    await queue.admit()
    assert await admitted(queue.engine) == ours


@pytest.mark.parametrize("kind", ["foreign", "noop"])
async def test_no_worker_gets_a_message_of_what_only_leases_serve(
    harness: BrokerHarness, database_url: str, kind: str
) -> None:
    """The row is marked as set aside while it is admitted, so it never goes by the broker."""
    await a_worker(harness.engine, 1, ["q"], ["noop"])
    await a_worker(harness.engine, 1, ["q"], [kind], tenant="t")
    await put(harness.engine, harness.broker, 2, type=kind, priority=9)
    limiter = a_limiter(harness.engine, harness.broker, database_url)
    while await limiter.run_once():
        pass
    assert await counted(harness.engine, "admitted AND published AND unserved = 'foreign'") == (kind == "foreign")
    if kind == "foreign":
        assert await nothing_comes(harness.subscribe(5, "q"))


async def _claim(queue: Queue, worker: UUID, types: list[str]) -> Claimed:
    async with transaction(queue.engine) as conn:
        claimed = await claim_next(conn, worker, ["q"], 10, types)
        await conn.commit()
    return claimed
