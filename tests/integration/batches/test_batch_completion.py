"""The end of a batch: each end of a member counts once, the batch finishes once, and no member waits for it."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.ids import new_id
from accepted.services.batches import ending
from accepted.services.jobs.completion import expire, settle
from accepted.storage.db.engine import transaction
from accepted_worker.scheduler.relay import Relay
from tests.support.clients.client import PATIENCE, check_problem
from tests.support.ledger.batches import HOOK, accepted, end_some, finished, schedulers, seen, told
from tests.support.ledger.jobs import claim, running_attempt
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.service.app_without_auth import application
from tests.support.service.in_process_worker import working
from tests.support.waiting import until

FAILS = {"type": "sleep", "payload": {"seconds": 0, "fail_attempts": 1}, "retry": {"max_attempts": 1}}


@pytest.fixture
async def http(engine: AsyncEngine, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with application(engine, database_url, egress_allow="127.0.0.0/8") as client:
        yield client


async def test_what_its_jobs_came_to(http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker) -> None:
    jobs = [{"type": "noop"}] * 150 + [FAILS] * 40 + [{"type": "noop", "expires_at": "2020-01-01T00:00:00Z"}] * 10
    batch = await accepted(http, jobs, callback_url=HOOK)
    other = await accepted(http, [{"type": "noop"}])
    async with working(engine, broker, "default", concurrency=50), schedulers(engine, broker):
        await until(lambda: _expire(engine, broker), what="the late ones to expire")
        done = await finished(http, batch)
        assert (await finished(http, other))["counts"] == {"succeeded": 1}
    assert done["counts"] == {"succeeded": 150, "failed": 40, "expired": 10}
    assert (done["total"], done["finished"]) == (200, True)
    assert (await http.get(f"/batches/{batch}")).headers.get("retry-after") is None
    (hook,) = await told(engine)
    assert (hook["url"], hook["batch_id"]) == (HOOK, batch)
    event = json.loads(hook["event"])
    assert event == {"type": "batch.finished", "timestamp": done["finished_at"], "data": done}
    await until(lambda: _all_added(engine), what="the moves to be added up")
    assert await counted(engine) == [{"failed": 40, "succeeded": 150, "expired": 10}, {"succeeded": 1}]


async def _all_added(engine: AsyncEngine) -> bool:
    return await rows(engine, "SELECT 1 FROM batch_moves") == []


async def counted(engine: AsyncEngine) -> list[dict[str, int]]:
    """The counts on the rows of the batches, by their age: those that the scheduler has added up."""
    return [row["counts"] for row in await rows(engine, "SELECT counts FROM batches ORDER BY id")]


async def _expire(engine: AsyncEngine, broker: PostgresBroker) -> bool:
    await expire(engine, broker, 100)
    return bool(await rows(engine, "SELECT 1 FROM jobs WHERE status = 'expired' HAVING count(*) = 10"))


async def test_a_batch_serialises_nothing(http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker) -> None:
    """While the row of the batch is locked its members go on to end, in any number of transactions."""
    batch = await accepted(http, [{"type": "noop"}] * 100)
    async with transaction(engine) as conn:
        await conn.execute(text("SELECT 1 FROM batches FOR UPDATE"))
        async with asyncio.timeout(2.5):  # less than anybody waits for a lock
            await asyncio.gather(*(end_some(engine, broker, 10) for _ in range(10)))
        await conn.rollback()
    assert (await seen(http, batch))["counts"] == {"succeeded": 100}
    assert await counted(engine) == [{"queued": 100}], "the moves are not added yet"


async def test_many_schedulers_add_up_what_many_workers_end(
    http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker
) -> None:
    some = [await accepted(http, [{"type": "noop"}] * 60, callback_url=HOOK) for _ in range(5)]

    async def work() -> None:
        while await end_some(engine, broker, 7):
            pass

    async def add() -> None:
        async def all_finished() -> bool:
            await ending.add_up(engine, broker)
            return len(await rows(engine, "SELECT 1 FROM batches WHERE finished_at IS NOT NULL")) == 5

        await until(all_finished, PATIENCE, "all batches")

    await asyncio.gather(*(work() for _ in range(4)), *(add() for _ in range(4)))
    assert sorted(hook["batch_id"] for hook in await told(engine)) == sorted(some)
    assert await counted(engine) == [{"succeeded": 60}] * 5


async def test_nothing_is_told_before_the_last_one(
    http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker
) -> None:
    batch = await accepted(http, [{"type": "noop"}] * 3, callback_url=HOOK)
    await end_some(engine, broker, 2)
    await ending.add_up(engine, broker)
    assert (await seen(http, batch))["counts"] == {"queued": 1, "succeeded": 2}
    assert await told(engine) == []
    await end_some(engine, broker, 1)
    assert not (await seen(http, batch))["finished"]
    await ending.add_up(engine, broker)
    assert (await seen(http, batch))["finished"]
    assert len(await told(engine)) == 1


async def test_a_member_that_is_retried_opens_its_batch(
    http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker
) -> None:
    batch = await accepted(http, [{"type": "noop"}] * 2, callback_url=HOOK)
    await end_some(engine, broker, 1)
    (failed,) = await end_some(engine, broker, 1, failed=True)
    await ending.add_up(engine, broker)
    assert (await seen(http, batch))["counts"] == {"succeeded": 1, "failed": 1}
    assert (await http.post(f"/jobs/{failed}/retry")).status_code == 202
    opened = await seen(http, batch)
    assert (opened["finished"], opened["finished_at"], opened["counts"]) == (False, None, {"succeeded": 1, "queued": 1})
    await do(engine, "UPDATE outbox SET published = true")
    await end_some(engine, broker, 1, failed=True)
    await ending.add_up(engine, broker)
    replayed = await http.post("/dead-letters/replay", json={})
    assert replayed.json() == {"matched": 1, "replayed": 1}
    assert not (await seen(http, batch))["finished"]
    await do(engine, "UPDATE outbox SET published = true")
    await end_some(engine, broker, 1)
    await ending.add_up(engine, broker)
    assert (await seen(http, batch))["counts"] == {"succeeded": 2}
    assert len(await told(engine)) == 3


async def test_a_retry_before_the_end_was_added_up_keeps_the_sum(
    http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker
) -> None:
    batch = await accepted(http, [{"type": "noop"}])
    (failed,) = await end_some(engine, broker, 1, failed=True)
    assert (await http.post(f"/jobs/{failed}/retry")).status_code == 202
    await ending.add_up(engine, broker)
    assert not (await seen(http, batch))["finished"]
    await do(engine, "UPDATE outbox SET published = true")
    await end_some(engine, broker, 1)
    await ending.add_up(engine, broker)
    assert (await seen(http, batch))["finished"]


async def test_a_batch_is_not_finished_by_its_row_alone(
    http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row shows that all have ended; a move that is not added yet says that one runs again."""
    batch = await accepted(http, [{"type": "noop"}], callback_url=HOOK)
    (failed,) = await end_some(engine, broker, 1, failed=True)
    assert (await http.post(f"/jobs/{failed}/retry")).status_code == 202
    monkeypatch.setattr(ending, "MAX_ADDED", 2)
    await ending.add_up(engine, broker)
    assert await counted(engine) == [{"failed": 1}]
    assert not (await seen(http, batch))["finished"]
    assert await told(engine) == []


async def test_a_retry_while_the_batch_finishes_comes_after_it(
    http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker
) -> None:
    """Whichever is first, the batch is open in the end, and its counts have changed."""
    batch = await accepted(http, [{"type": "noop"}] * 20)
    failed = await end_some(engine, broker, 20, failed=True)
    answers = await asyncio.gather(
        ending.add_up(engine, broker),
        *(http.post(f"/jobs/{one}/retry") for one in failed),
        *(ending.add_up(engine, broker) for _ in range(3)),
    )
    assert [one.status_code for one in answers if isinstance(one, httpx.Response)] == [202] * 20
    assert (await seen(http, batch))["counts"] == {"queued": 20}
    await ending.add_up(engine, broker)
    assert await counted(engine) == [{"queued": 20}]
    assert not (await seen(http, batch))["finished"]


async def test_each_status_is_counted(http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker) -> None:
    """Whatever moves a member, the counts are those of the members, without the scheduler and with it."""
    batch = await accepted(http, [{"type": "noop"}] * 6 + [{"type": "noop", "delay": 60}] * 5)

    async def check(*moved: str) -> None:
        (members,) = await rows(
            engine, "SELECT json_object_agg(status, n) AS n FROM (SELECT status, count(*) AS n FROM jobs GROUP BY 1) s"
        )
        for _ in range(2):
            assert (await seen(http, batch))["counts"] == members["n"]
            await ending.add_up(engine, broker)
        assert members["n"].keys() >= set(moved)

    await check("queued", "scheduled")
    held, tried, _ = await claim(engine, 3, queue="default")
    await check("running")
    moves = [
        transitions.handed_back(running_attempt(held)),
        transitions.failed(running_attempt(tried), FailureClass.TRANSIENT, "later", 1.0),
    ]
    assert await settle(engine, broker, moves) == [True, True]
    await check("retrying", "running")
    await do(engine, "UPDATE outbox SET due_at = now() - interval '1 second' WHERE NOT published")
    await Relay(engine, broker, PollConnection(engine)).run_once()
    await check("queued")
    assert (await http.post(f"/batches/{batch}/cancel")).status_code == 202
    await check("cancelled")


async def test_another_batch_is_not_there(http: httpx.AsyncClient, engine: AsyncEngine) -> None:
    batch = await accepted(http, [{"type": "noop"}])
    await do(engine, "UPDATE batches SET tenant = 'other'")
    check_problem(await http.get(f"/batches/{batch}"), 404)
    check_problem(await http.get(f"/batches/{new_id()}"), 404)
