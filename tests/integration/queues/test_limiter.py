"""One round of the limiter: which jobs it admits, how many, in which order. On PostgreSQL; workers are rows."""

import pytest

from accepted.services.jobs.completion import expire
from accepted.storage.attempts.claims import claim_next, claim_refs
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import cancellation, outbox, submission
from accepted.storage.jobs.submission import Entry
from accepted_worker.scheduler import limiter as module
from accepted_worker.scheduler.relay import Relay
from tests.support.ledger.jobs import a_job
from tests.support.ledger.limited_queue import Queue, a_worker, admitted, counted, limit
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do


async def test_a_queue_without_limits_is_not_held_and_not_asked_about(queue: Queue) -> None:
    await queue.put(3)
    assert await counted(queue.engine, "NOT on_hold AND published") == 3
    assert await queue.limiter.run_once() == 0
    assert queue.limiter.pause(0) == module.IDLE


async def test_a_new_limit_takes_back_what_was_let_go_and_has_not_begun(queue: Queue) -> None:
    await limit(queue.engine, max_running=4)
    worker = await a_worker(queue.engine, 10)
    jobs = [(await queue.put())[0] for _ in range(6)]
    assert await queue.admit() == jobs[:4]
    await limit(queue.engine, max_depth=100)
    assert await admitted(queue.engine) == jobs[:4], "what limits nothing that runs takes nothing back"
    await limit(queue.engine, max_running=1)
    assert await queue.claim(worker) == []
    assert await queue.one_by_one(worker, 6) == jobs


@pytest.mark.parametrize("fields", [{"priority": 5}, {"concurrency_key": "k"}], ids=["a priority", "a key"])
async def test_a_job_that_names_its_place_limits_its_queue(queue: Queue, fields: dict[str, object]) -> None:
    await queue.put(1)
    await queue.put(1, **fields)
    await queue.put(1)
    assert (await counted(queue.engine, "NOT on_hold"), await counted(queue.engine, "on_hold")) == (1, 2)


async def test_a_notification_is_one_whatever_the_number_and_length_of_the_names(queue: Queue) -> None:
    """A NOTIFY holds 8,000 bytes."""
    names = [f"{number:03}{'x' * 61}" for number in range(200)]
    jobs = [Entry(a_job(queue=name, priority=9)) for name in names]
    async with transaction(queue.engine) as conn:
        accepted = await submission.insert(conn, jobs, 60)
        await conn.commit()
    assert all(made.on_hold for made in accepted.values())
    await do(queue.engine, "UPDATE outbox SET on_hold = false")
    async with transaction(queue.engine) as conn:
        assert (await outbox.take_due(conn, 500, 10.0))[0] == []
        await conn.commit()
    assert await counted(queue.engine, "on_hold") == 200


async def test_no_more_than_max_running_are_admitted_or_run(queue: Queue) -> None:
    await limit(queue.engine, max_running=3)
    worker = await a_worker(queue.engine, 10)
    ids = await queue.put(6)
    assert await queue.admit() == ids[:3]
    assert await queue.admit() == ids[:3]
    claims = await queue.claim(worker, 2)
    assert await queue.admit() == ids[2:3]
    await queue.finish(claims)
    assert sorted(await queue.admit()) == ids[2:5]


async def test_a_cancelled_and_an_expired_row_leave_their_room(queue: Queue) -> None:
    await limit(queue.engine, max_running=2)
    await a_worker(queue.engine, 10)
    ids = await queue.put(4)
    assert await queue.admit() == ids[:2]
    await do(queue.engine, "UPDATE outbox SET expires_at = now() WHERE job_id = :id", id=ids[0])
    assert await expire(queue.engine, queue.broker, 10) == 1
    async with transaction(queue.engine) as conn:
        assert await cancellation.cancel(conn, ids[1])
        await conn.commit()
    assert await queue.admit() == ids[2:]


async def test_no_more_than_there_are_free_slots(queue: Queue) -> None:
    await limit(queue.engine, max_running=100)
    ids = await queue.put(9)
    assert await queue.admit() == [], "nobody is there"
    assert queue.limiter.pause(0) == module.UNHEARD
    silent = await a_worker(queue.engine, 5)
    await do(queue.engine, "UPDATE workers SET heartbeat_at = now() - interval '31 seconds' WHERE id = :id", id=silent)
    await a_worker(queue.engine, 5, ["elsewhere"])
    assert await queue.admit() == [], "nobody who lives and serves this queue"
    worker = await a_worker(queue.engine, 3, ["q", "r"])
    assert len(await queue.admit()) == 3
    assert len(await queue.claim(worker)) == 3
    await a_worker(queue.engine, 2)
    assert await queue.admit() == ids[3:5]


async def test_a_worker_of_all_queues_leaves_those_of_other_types_alone(queue: Queue) -> None:
    await limit(queue.engine, max_running=100)
    await a_worker(queue.engine, 2, types=["noop"])
    register = "INSERT INTO job_types (name, queue, max_attempts, schedule, jitter, payload_schema) "
    await do(queue.engine, register + "VALUES ('theirs', 'q', 1, '{}', 0, '{}')")
    await queue.put(5)
    assert await queue.admit() == []
    await do(queue.engine, register + "VALUES ('noop', 'q', 1, '{}', 0, '{}')")
    assert len(await queue.admit()) == 2


async def test_a_slot_that_is_filled_from_another_queue_is_not_free(queue: Queue) -> None:
    await limit(queue.engine, max_running=100)
    worker = await a_worker(queue.engine, 2)
    await queue.put(1, queue="other")
    async with transaction(queue.engine) as conn:
        assert len(await claim_next(conn, worker, ["other"], 1)) == 1
        await conn.commit()
    await queue.put(5)
    assert len(await queue.admit()) == 1


async def test_what_is_delayed_or_retried_needs_room_when_it_is_due(queue: Queue) -> None:
    await limit(queue.engine, max_running=1)
    worker = await a_worker(queue.engine, 5)
    relay = Relay(queue.engine, queue.broker, PollConnection(queue.engine))
    ids = await queue.put(1)
    delayed = await queue.put(1, delay=3600.0)
    assert await counted(queue.engine, "on_hold") == 1, "what is not due waits for its moment, not for room"
    await do(queue.engine, "UPDATE outbox SET due_at = now() WHERE NOT on_hold")
    assert await relay.run_once() == 0
    assert await counted(queue.engine, "on_hold AND NOT published") == 2
    assert await queue.admit() == ids
    await queue.finish(await queue.claim(worker), wait=0.0)
    assert await counted(queue.engine, "NOT on_hold AND NOT published") == 1
    await relay.run_once()
    assert await queue.admit() == delayed, "it went to the end of the line"


async def test_nothing_begins_while_a_queue_is_paused(queue: Queue) -> None:
    await limit(queue.engine, paused=True)
    worker = await a_worker(queue.engine, 5)
    ids = await queue.put(2)
    assert await queue.admit() == []
    await limit(queue.engine, paused=False)
    assert await queue.admit() == ids
    await limit(queue.engine, paused=True)
    assert await queue.claim(worker) == [], "what was admitted a moment ago"
    async with transaction(queue.engine) as conn:
        assert await claim_refs(conn, worker, [(one, 0) for one in ids]) == []
    assert await queue.admit() == []
    assert await counted(queue.engine, "on_hold AND NOT published") == 2
    await limit(queue.engine, paused=False)
    assert await queue.admit() == ids


async def test_what_was_published_before_the_limit_is_held_in_rounds(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_SIZE", 40)
    worker = await a_worker(queue.engine, 100)
    ids = await queue.put(100)
    running = await queue.claim(worker, 2)
    await limit(queue.engine, max_running=3)
    assert await queue.claim(worker) == []
    async with transaction(queue.engine) as conn:
        assert await claim_refs(conn, worker, [(one, 0) for one in ids]) == []
    held = []
    while await queue.limiter.run_once() or await counted(queue.engine, "published AND NOT admitted"):
        held.append(await counted(queue.engine, "on_hold"))
    assert max(b - a for a, b in zip([0, *held], held, strict=False)) <= 40
    assert (await counted(queue.engine, "admitted"), await counted(queue.engine, "on_hold")) == (1, 97)
    await queue.finish(running)
    assert len(await queue.admit()) == 3


async def test_a_late_word_of_its_publishing_does_not_free_what_is_held(queue: Queue) -> None:
    """The relay took it before the limit was set, and the limiter put it on hold before it was marked as published."""
    (one,) = await queue.put(1, delay=0.001)
    await do(queue.engine, "UPDATE outbox SET due_at = now()")
    async with transaction(queue.engine) as conn:
        refs, _ = await outbox.take_due(conn, 10, 0.0)
        await conn.commit()
    assert [ref.job_id for ref in refs] == [one]
    await limit(queue.engine, max_running=1)
    await do(queue.engine, "UPDATE outbox SET due_at = now()")
    async with transaction(queue.engine) as conn:
        assert (await outbox.take_due(conn, 10, 0.0))[0] == []
        await outbox.mark_published(conn, refs)
        await conn.commit()
    assert await counted(queue.engine, "on_hold AND NOT published") == 1


async def test_a_rate_admits_one_at_a_time(queue: Queue) -> None:
    await limit(queue.engine, rate_jobs=1, rate_per=3600.0)
    worker = await a_worker(queue.engine, 5)
    ids = await queue.put(3)
    assert await queue.admit() == ids[:1]
    assert await queue.admit() == ids[:1]
    assert len(await queue.claim(worker)) == 1
    assert await queue.admit() == []
    assert queue.limiter.pause(0) == module.IDLE
    await do(queue.engine, "UPDATE queues SET last_start = now() - interval '2 hours'")
    assert await queue.admit() == ids[1:2], "an idle hour is no burst"


async def test_a_rate_counts_what_begins_not_what_was_admitted(queue: Queue) -> None:
    """After an idle time what was published starts at once, and no more than that is made up for."""
    await limit(queue.engine, rate_jobs=1, rate_per=60.0)
    worker = await a_worker(queue.engine, 50)
    ids = await queue.put(3)
    assert await queue.admit() == ids[:1]
    await do(queue.engine, "UPDATE queues SET last_start = now() - interval '2 hours'")
    assert await queue.admit() == ids[:1]
    assert len(await queue.claim(worker)) == 1
    assert await queue.admit() == []


async def test_a_killed_worker_takes_its_slots_along_and_leaves_its_jobs(queue: Queue) -> None:
    await limit(queue.engine, max_running=2)
    gone = await a_worker(queue.engine, 10)
    ids = await queue.put(2)
    await queue.admit()
    claims = await queue.claim(gone)
    await do(queue.engine, "UPDATE workers SET heartbeat_at = now() - interval '31 seconds'")
    await queue.put(1)
    assert await queue.admit() == []
    await a_worker(queue.engine, 1)
    assert await queue.admit() == [], "its jobs may still be running"
    await queue.finish(claims, wait=0.0)
    await Relay(queue.engine, queue.broker, PollConnection(queue.engine)).run_once()
    assert len(await queue.admit()) == 1
    assert await counted(queue.engine, "on_hold OR admitted") == len(ids) + 1
