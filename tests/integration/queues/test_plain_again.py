"""limited -> plain: when the limits and priorities of a queue are gone, and what becomes of jobs that wait there."""

from collections.abc import Mapping
from typing import Any

import pytest

from accepted.domain.job import WEBHOOK_QUEUE
from accepted.storage.db.engine import transaction
from accepted.storage.holding import RELEASED
from accepted.storage.jobs import submission
from accepted.storage.jobs.submission import Entry
from accepted_worker.scheduler.housekeeping import Sampler
from accepted_worker.scheduler.relay import Relay
from tests.support.ledger.jobs import a_job
from tests.support.ledger.limited_queue import Queue, a_limiter, a_worker, counted, limit
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.ledger.workflows import put_graph


async def limited(queue: Queue, name: str = "q") -> bool:
    (row,) = await rows(queue.engine, "SELECT limited FROM queues WHERE name = :name", name=name)
    return bool(row["limited"])


async def a_minute_later(queue: Queue) -> bool:
    """Whether it is still limited after two rounds."""
    await do(queue.engine, "UPDATE queues SET limited_at = limited_at - interval '61 seconds'")
    await queue.limiter.run_once()
    await queue.limiter.run_once()
    return await limited(queue)


async def relayed(queue: Queue) -> int:
    return await Relay(queue.engine, queue.broker, PollConnection(queue.engine)).run_once()


async def test_the_last_job_with_a_priority_is_gone(queue: Queue) -> None:
    worker = await a_worker(queue.engine, 1)
    ordered = await queue.put(1, priority=9)
    await queue.admit()
    await queue.finish(await queue.claim(worker))
    assert await queue.admit() == []
    assert await limited(queue), "not before a minute is over"
    assert not await a_minute_later(queue)
    assert queue.limiter.pause(0) >= 1.0
    plain = await queue.put(2)
    assert await counted(queue.engine, "published AND NOT on_hold AND NOT admitted") == 2
    assert {claim.job.id for claim in await queue.claim(worker)} == set(plain)
    assert ordered[0] not in plain


async def test_the_last_limit_is_gone(queue: Queue) -> None:
    await limit(queue.engine, max_running=1, rate_jobs=1, rate_per=60.0)
    await limit(queue.engine, rate_jobs=None, rate_per=None)
    assert await a_minute_later(queue)
    await limit(queue.engine, max_running=None)
    await queue.limiter.run_once()
    assert await limited(queue), "not before a minute is over"
    assert not await a_minute_later(queue)


REASONS: Mapping[str, Mapping[str, Any]] = {
    "paused": {"paused": True},
    "max_running": {"max_running": 5},
    "rate": {"rate_jobs": 1, "rate_per": 60.0},
    "max_running_per_key": {"max_running_per_key": 1},
}


@pytest.mark.parametrize("columns", REASONS.values(), ids=REASONS)
async def test_a_limit_keeps_it(queue: Queue, columns: Mapping[str, Any]) -> None:
    await queue.put(1, priority=9)
    await do(queue.engine, "DELETE FROM outbox")
    await limit(queue.engine, **columns)
    assert await a_minute_later(queue)


@pytest.mark.parametrize("fields", [{"priority": 9}, {"priority": 0}, {"concurrency_key": "k"}], ids=str)
async def test_a_job_that_asks_for_an_order_keeps_it_while_it_waits(queue: Queue, fields: Mapping[str, Any]) -> None:
    await queue.put(1)
    (ordered,) = await queue.put(1, **fields)
    await queue.put(1)
    assert await a_minute_later(queue)
    await do(queue.engine, "DELETE FROM outbox WHERE job_id = :id", id=ordered)
    assert not await a_minute_later(queue)


async def test_a_second_tenant_keeps_it(queue: Queue) -> None:
    """The sampler limits it again if it came just as the queue was made plain."""
    await queue.put(1)
    await queue.put(1, tenant="u")
    await do(queue.engine, "DELETE FROM outbox WHERE tenant = 'u'")
    assert await a_minute_later(queue)
    await do(queue.engine, "UPDATE queues SET limited = false")
    await Sampler(queue.engine).run_once()
    assert await limited(queue)


async def test_the_queue_of_deliveries_stays_limited(queue: Queue) -> None:
    await queue.put(1, queue=WEBHOOK_QUEUE, concurrency_key="host")
    await do(queue.engine, "DELETE FROM outbox")
    await do(queue.engine, "UPDATE queues SET limited_at = limited_at - interval '61 seconds'")
    await queue.limiter.run_once()
    assert await limited(queue, WEBHOOK_QUEUE)


async def test_those_that_wait_are_let_go_in_their_order(queue: Queue) -> None:
    """Also one that was set aside: whoever serves its type finds it in the ledger."""
    worker = await a_worker(queue.engine, 1, types=["other"])
    (ordered,) = await queue.put(1, priority=9)
    plain = [(await queue.put(1))[0] for _ in range(3)]
    await queue.admit()
    await do(queue.engine, "UPDATE outbox SET unserved = '' WHERE job_id <> :id", id=plain[0])
    await do(queue.engine, "DELETE FROM outbox WHERE job_id = :id", id=ordered)
    await do(queue.engine, "UPDATE workers SET slots = 0")
    assert not await a_minute_later(queue)
    assert await counted(queue.engine, "on_hold") == 0
    assert await counted(queue.engine, "published AND unserved = 'noop'") == 1
    assert await relayed(queue) == 2
    assert [claim.job.id for claim in await queue.claim(worker, 1)] == plain[1:2]


async def test_a_long_line_keeps_it_until_it_is_short(queue: Queue) -> None:
    """They are let go in one transaction."""
    (ordered,) = await queue.put(1, priority=9)
    await queue.put(RELEASED + 1)
    await do(queue.engine, "DELETE FROM outbox WHERE job_id = :id", id=ordered)
    assert await a_minute_later(queue)
    await do(queue.engine, "DELETE FROM outbox WHERE job_id IN (SELECT job_id FROM outbox LIMIT 1)")
    assert not await a_minute_later(queue)


async def test_a_delayed_job_with_a_priority_limits_it_again(queue: Queue) -> None:
    """It waits for its moment, and asks for an order only then."""
    (late,) = await queue.put(1, priority=9, delay=3600.0)
    assert not await a_minute_later(queue)
    await queue.put(1)
    await do(queue.engine, "UPDATE outbox SET due_at = now() WHERE job_id = :id", id=late)
    assert await relayed(queue) == 0
    assert await limited(queue)
    assert await counted(queue.engine, f"on_hold AND job_id = '{late}'") == 1
    await queue.limiter.run_once()
    assert await limited(queue), "for a minute"
    await a_worker(queue.engine, 1)
    assert await queue.admit() == [late], "it goes first"


async def test_a_job_that_comes_after_others_limits_it_again(queue: Queue) -> None:
    """It has a priority, and the queue became plain while it waited for them."""
    worker = await a_worker(queue.engine, 1)
    ids = await put_graph(queue.engine, queue.broker, {"a": "", "b": "a"}, priority=9)
    await queue.admit()
    claims = await queue.claim(worker)
    assert not await a_minute_later(queue)
    await queue.finish(claims)
    assert await counted(queue.engine, "published") == 0
    assert await relayed(queue) == 0
    assert await limited(queue)
    assert await queue.admit() == [ids["b"]]


@pytest.mark.parametrize("lives", [True, False], ids=["the limiter lives", "the limiter dies"])
async def test_a_submission_that_commits_just_after_is_not_left_on_hold(queue: Queue, lives: bool) -> None:
    """It was put on hold by a statement that saw a limited queue."""
    await queue.put(1, priority=9)
    await do(queue.engine, "DELETE FROM outbox")
    async with transaction(queue.engine) as conn:
        job = a_job()
        await submission.insert(conn, [Entry(job)], 60)
        assert not await a_minute_later(queue)
        await conn.commit()
    assert await counted(queue.engine, "on_hold") == 1
    if lives:
        await queue.limiter.run_once()
        assert await counted(queue.engine, "NOT on_hold AND NOT published") == 1
        assert await relayed(queue) == 1
    else:
        another = a_limiter(queue.engine, queue.broker, "")
        await another.run_once()
        assert await counted(queue.engine, "on_hold") == 1
        await Sampler(queue.engine).run_once()
        await a_worker(queue.engine, 1)
        await another.run_once()
        assert await counted(queue.engine, "admitted") == 1
