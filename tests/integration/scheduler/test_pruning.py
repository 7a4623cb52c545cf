"""What is past its retention is deleted only when nothing needs it any more.

The retention is zero here, so only what is needed keeps a job that has ended.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.ids import BEFORE_ALL, new_id
from accepted.domain.job import NewJob
from accepted.domain.references import Lease
from accepted.services.batches import ending
from accepted.services.jobs.completion import settle_whole
from accepted.storage import batches, pruning
from accepted.storage.attempts.claims import Claim
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import manual_retry
from accepted_worker.scheduler import pruner, pruning_pace
from accepted_worker.scheduler.pruner import Pruner
from tests.support.clients.client import check_problem
from tests.support.ledger.batches import HOOK, accepted, end_some, seen
from tests.support.ledger.jobs import DAY, a_job, apply, claim, put, running_attempt
from tests.support.ledger.sql import do, rows, waits_for_a_lock
from tests.support.ledger.webhook_deliveries import delivered, ended
from tests.support.ledger.workflows import DIAMOND, put_graph
from tests.support.service.app_without_auth import application
from tests.support.waiting import until


@pytest.fixture
async def http(engine: AsyncEngine, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with application(engine, database_url, egress_allow="127.0.0.0/8") as client:
        yield client


def later() -> datetime:
    """A moment after the ids of all jobs that there are."""
    return datetime.now(UTC) + timedelta(seconds=5)


async def prune(engine: AsyncEngine, failed: float = 0) -> tuple[int, int]:
    """One round with no retention, but `failed` seconds for what has failed: how many batches and jobs were deleted."""
    async with transaction(engine) as conn:
        gone = await pruning.prune_batches(conn, 0, failed, later(), BEFORE_ALL, 100)
        await conn.commit()
    async with transaction(engine) as conn:
        jobs = await pruning.prune_jobs(conn, 0, failed, later(), BEFORE_ALL, 100)
        await conn.commit()
    return gone.deleted, jobs.deleted


async def end(engine: AsyncEngine, result: str | None = "{}") -> list[UUID]:
    """Run what is ready: with this result, or (None) with a failure."""
    await do(engine, "UPDATE outbox SET published = true WHERE due_at <= now() AND NOT on_hold")
    claims = await claim(engine)
    await apply(engine, *(outcome(one, result) for one in claims))
    return [one.job.id for one in claims]


def outcome(one: Claim, result: str | None) -> transitions.Transition:
    running = running_attempt(one)
    if result is None:
        return transitions.failed(running, FailureClass.INVALID, "no", 0.0)
    return transitions.succeeded(running, result)


def with_children(one: Claim, *children: NewJob) -> transitions.Transition:
    return msgspec.structs.replace(outcome(one, "{}"), children=children)


async def results(engine: AsyncEngine, one: Claim) -> dict[str, str] | None:
    async with transaction(engine) as conn:
        return await batches.results_needed(conn, Lease(one.job.id, one.job.attempt, one.worker_id))


async def the_batch(engine: AsyncEngine) -> Any:
    (row,) = await rows(engine, "SELECT * FROM batches")
    return row


async def test_a_member_lives_as_long_as_its_workflow(engine: AsyncEngine, broker: PostgresBroker) -> None:
    ids = await put_graph(engine, broker, DIAMOND)
    assert await end(engine, '"of a"') == [ids["a"]]
    assert await prune(engine) == (0, 0)
    assert set(await end(engine, '"of b and c"')) == {ids["b"], ids["c"]}
    assert await prune(engine) == (0, 0)
    (last,) = await claim(engine)
    assert await results(engine, last) == {"b": '"of b and c"', "c": '"of b and c"'}
    await apply(engine, outcome(last, "{}"))
    await ending.add_up(engine, broker)
    assert (await the_batch(engine))["counts"] == {"succeeded": 4}
    assert await prune(engine) == (1, 4)
    for table in ("jobs", "batches", "dependencies", "attempts"):
        assert await rows(engine, f"SELECT 1 FROM {table}") == [], table


async def test_a_batch_with_failed_members_is_kept_whole_and_can_be_retried(
    http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker
) -> None:
    """A retry reopens it: its counts must still be those of all of its members."""
    batch = await accepted(http, [{"type": "noop"}] * 3)
    (failed,) = await end_some(engine, broker, 1, failed=True)
    await end_some(engine, broker, 2)
    await ending.add_up(engine, broker)
    assert await prune(engine, failed=DAY) == (0, 0)
    assert (await http.post(f"/jobs/{failed}/retry")).status_code == 202
    assert await prune(engine) == (0, 0), "it waits for the retried one"
    await do(engine, "UPDATE outbox SET published = true")
    await end_some(engine, broker, 1)
    await ending.add_up(engine, broker)
    assert (await seen(http, batch))["counts"] == {"succeeded": 3}
    assert await prune(engine, failed=DAY) == (1, 3)
    check_problem(await http.get(f"/batches/{batch}"), 404)


async def test_a_failed_member_that_runs_again_late_has_the_results_that_it_needs(
    engine: AsyncEngine, broker: PostgresBroker, http: httpx.AsyncClient
) -> None:
    ids = await put_graph(engine, broker, {"a": "", "b": "a"}, tenant="default")
    await end(engine, '"of a"')
    await end(engine, None)
    await ending.add_up(engine, broker)
    assert await prune(engine, failed=DAY) == (0, 0)
    assert (await http.post(f"/dead-letters/{ids['b']}/replay")).status_code == 202
    await do(engine, "UPDATE outbox SET published = true")
    (again,) = await claim(engine)
    assert await results(engine, again) == {"a": '"of a"'}


async def test_a_workflow_that_is_half_pruned_does_not_run_again(
    engine: AsyncEngine, broker: PostgresBroker, http: httpx.AsyncClient
) -> None:
    ids = await put_graph(engine, broker, {"a": "", "b": "a"}, tenant="default")
    await end(engine)
    await end(engine, None)
    await ending.add_up(engine, broker)
    async with transaction(engine) as conn:
        assert (await pruning.prune_batches(conn, 0, 0, later(), BEFORE_ALL, 100)).deleted == 1
        await conn.commit()
    check_problem(await http.post(f"/jobs/{ids['b']}/retry"), 409)
    check_problem(await http.post(f"/dead-letters/{ids['b']}/replay"), 409)
    bulk = await http.post("/dead-letters/replay", json={})
    assert bulk.json() == {"matched": 1, "replayed": 0}
    assert await prune(engine) == (0, 2)


async def test_a_retry_that_began_first_keeps_what_it_needs(engine: AsyncEngine, broker: PostgresBroker) -> None:
    """The pruner has seen the batch finished and takes its row while the retry holds the members."""
    ids = await put_graph(engine, broker, {"a": "", "b": "a"})
    await end(engine)
    await end(engine, None)
    await ending.add_up(engine, broker)
    async with transaction(engine) as conn:
        await manual_retry.lock_workflow(conn, [ids["b"]])
        chosen = await manual_retry.choose(conn, "t", {ids["b"]: 1})
        assert await prune(engine) == (1, 0), "locked members are left alone"
        assert await manual_retry.again(conn, [(one.id, one.due_at) for one in chosen]) == {("q", "t")}
        await conn.commit()
    assert await prune(engine) == (0, 0), "the first is needed again"
    assert {row["id"] for row in await rows(engine, "SELECT id FROM jobs")} == {ids["a"], ids["b"]}


async def test_the_pruner_asks_again_once_it_has_its_locks(engine: AsyncEngine, broker: PostgresBroker) -> None:
    """A child that commits while the pruner looks for old jobs keeps its root."""
    (root,) = await put(engine)
    (claimed,) = await claim(engine)
    child = a_job(parent_id=root, root_id=root, depth=1)
    async with transaction(engine) as conn:
        assert await settle_whole(conn, broker, with_children(claimed, child), 10)
    await end(engine)
    grandchild = a_job(parent_id=child.id, root_id=root, depth=2)
    async with transaction(engine) as conn:
        ages = {"retention": 0.0, "retention_failed": 0.0}
        (found,) = await pruning._OLD.rows(
            conn, after=BEFORE_ALL, newest=pruning._newest(later(), 0, 0), **ages, limit=100
        )
        old = found["ids"]
        assert set(old) == {root, child.id}
        await put(engine, id=grandchild.id, parent_id=child.id, root_id=root, depth=2)
        assert await pruning._DELETE.count(conn, ids=old) == 1
        await conn.commit()
    assert {row["id"] for row in await rows(engine, "SELECT id FROM jobs")} == {root, grandchild.id}


async def test_a_root_counts_as_long_as_jobs_grow_from_it(engine: AsyncEngine, broker: PostgresBroker) -> None:
    (root,) = await put(engine)
    (claimed,) = await claim(engine)
    children = [a_job(parent_id=root, root_id=root, depth=1) for _ in range(2)]
    async with transaction(engine) as conn:
        assert await settle_whole(conn, broker, with_children(claimed, *children), 10)
    assert await prune(engine) == (0, 0)
    assert len(await claim(engine, 1)) == 1
    assert await prune(engine) == (0, 0)
    (row,) = await rows(engine, "SELECT descendants FROM jobs WHERE id = :id", id=root)
    assert row["descendants"] == 2
    await do(engine, "UPDATE attempts SET finished_at = now() WHERE finished_at IS NULL")
    await do(engine, "UPDATE jobs SET status = 'succeeded', finished_at = now() WHERE finished_at IS NULL")
    assert await prune(engine) == (0, 3)


async def test_a_job_lives_until_its_webhook_is_delivered(engine: AsyncEngine) -> None:
    other, _ = await delivered(engine, "succeeded")
    job_id, delivery_id = await ended(engine)
    assert await prune(engine) == (0, 1), "only the one that was told"
    assert other not in {row["id"] for row in await rows(engine, "SELECT id FROM jobs")}
    assert await prune(engine) == (0, 1), "then its delivery"
    assert {row["id"] for row in await rows(engine, "SELECT id FROM jobs")} == {job_id, delivery_id}


async def test_a_delivery_lives_as_long_as_what_it_told_of(engine: AsyncEngine) -> None:
    """An empty list of deliveries means that nothing was sent."""
    job_id, delivery_id = await delivered(engine, "succeeded")
    await do(engine, "UPDATE jobs SET status = 'failed' WHERE id = :id", id=job_id)
    assert await prune(engine, failed=DAY) == (0, 0)
    assert await prune(engine) == (0, 1)
    assert await prune(engine) == (0, 1)
    assert await rows(engine, "SELECT 1 FROM jobs WHERE id = :id", id=delivery_id) == []


async def test_a_batch_lives_until_its_webhook_is_delivered(
    http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker
) -> None:
    await accepted(http, [{"type": "noop"}] * 2, callback_url=HOOK)
    await end_some(engine, broker, 2)
    await ending.add_up(engine, broker)
    assert await prune(engine) == (0, 0)
    (delivery,) = await claim(engine, 1, queue="webhooks")
    await apply(engine, transitions.succeeded(running_attempt(delivery), "{}"))
    assert await prune(engine) == (1, 3)


async def test_a_payload_that_looks_like_a_delivery_stops_nothing(engine: AsyncEngine) -> None:
    await put(engine, payload='{"job_id": "not an id", "batch_id": 7}')
    await put(engine, payload=f'{{"job_id": "{new_id()}"}}')
    await end(engine)
    assert await prune(engine) == (0, 2)


async def test_a_retry_waits_for_a_pruner_and_finds_nothing(engine: AsyncEngine, http: httpx.AsyncClient) -> None:
    (job,) = await put(engine, tenant="default")
    await end(engine, None)
    async with transaction(engine) as conn:
        assert (await pruning.prune_jobs(conn, 0, 0, later(), BEFORE_ALL, 100)).deleted == 1
        retrying = asyncio.create_task(http.post(f"/jobs/{job}/retry"))
        await until(lambda: waits_for_a_lock(engine), 10, "the retry to wait")
        await conn.commit()
    check_problem(await retrying, 409)
    assert await rows(engine, "SELECT 1 FROM jobs") == await rows(engine, "SELECT 1 FROM outbox") == []


async def test_a_round_looks_once_at_what_stays(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept jobs do not hide those behind them, and are not walked over again with each statement."""
    monkeypatch.setattr(pruning_pace, "SMALL", 3)
    monkeypatch.setattr(pruning_pace, "LARGE", 3)
    await put(engine, 7)
    failed = await end(engine, None)
    await put(engine, 5)
    await end(engine)
    loop = Pruner(engine, 0, DAY)
    assert [await loop.run_once() for _ in range(5)] == [0, 0, 2, 3, 0]
    assert loop.pause(0) >= pruner.EVERY, "the round is over"
    assert {row["id"] for row in await rows(engine, "SELECT id FROM jobs")} == set(failed)
    await do(engine, "UPDATE jobs SET status = 'succeeded'")
    assert sum([await loop.run_once() for _ in range(3)]) == 7, "the next one begins with the oldest"


async def test_rounds_in_vain_get_rare(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruner, "EVERY", 0.0)
    await put(engine, 20)
    await end(engine)
    fruitful, in_vain = Pruner(engine, 0, DAY), Pruner(engine, DAY, DAY)
    assert (await fruitful.run_once(), fruitful.pause(20)) == (20, 0.0)
    await put(engine, 20)
    await end(engine, None)
    assert (await fruitful.run_once(), await in_vain.run_once()) == (0, 0)
    assert fruitful.pause(0) > 0.0
    assert in_vain.pause(0) == 0.0, "it has looked at none"
