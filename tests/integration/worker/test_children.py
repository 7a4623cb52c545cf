"""`ctx.submit`: children are checked as submissions are, and become real with the success of their parent."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import Context, InvalidJob, Retry, TransientError, job
from accepted.broker.postgres import PostgresBroker
from accepted.broker.rabbitmq.broker import RabbitBroker
from accepted.domain import transitions
from accepted.services.jobs.completion import settle_whole
from accepted.storage.db.engine import create_engine, transaction
from accepted.storage.jobs import submission
from accepted_worker.attempt import related_jobs
from tests.support.ledger.jobs import a_job, claim, put, running_attempt, the_job
from tests.support.ledger.sql import do, rows
from tests.support.service.worker_with_handlers import worker_with_handlers
from tests.support.waiting import until


class Leaf(BaseModel):
    number: int = 0


@job("leaf", queue="q")
async def leaf(payload: Leaf, ctx: Context) -> int:
    return payload.number


@job("leaves", queue="q")
async def leaves(payload: dict[str, Any], ctx: Context) -> list[str]:
    ids = [str(await ctx.submit("leaf", {"number": number})) for number in range(payload.get("count", 1))]
    assert await rows_of_leaves(ctx) == []
    if ctx.job.attempt <= payload.get("fail", 0):
        raise TransientError("after all were submitted")
    return ids


@job("grows", queue="q")
async def grows(payload: dict[str, Any], ctx: Context) -> None:
    for _ in range(payload["width"]):
        await ctx.submit("grows", payload, delay=0)


ENGINES: list[AsyncEngine] = []


async def rows_of_leaves(ctx: Context) -> Any:
    return await rows(ENGINES[-1], "SELECT id FROM jobs WHERE type = 'leaf' AND parent_id = :id", id=ctx.job.id)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(database_url)
    ENGINES.append(made)
    yield made
    await made.dispose()


async def everything_ended(engine: AsyncEngine) -> None:
    async def ended() -> bool:
        return not await rows(engine, "SELECT 1 FROM jobs WHERE finished_at IS NULL")

    await until(ended, 30, "every job to end", interval=0.1)


async def test_children_run_once_their_parent_has_succeeded(engine: AsyncEngine, database_url: str) -> None:
    async with worker_with_handlers(engine, database_url, leaf, leaves) as shop:
        parent = await shop.finish("leaves", {"count": 3, "fail": 1}, tenant="acme")
        ids = [UUID(id) for id in json.loads(parent.result or "")]
        children = await asyncio.gather(*map(shop.finished, ids))
    assert [child.result for child in children] == ["0", "1", "2"]
    found = await rows(engine, "SELECT * FROM jobs WHERE type = 'leaf'")
    assert {row["id"] for row in found} == set(ids), "none of the failed attempt"
    assert {(row["tenant"], row["parent_id"], row["root_id"], row["depth"]) for row in found} == {
        ("acme", parent.id, parent.id, 1)
    }
    assert (await the_job(engine, parent.id))["descendants"] == 3


async def test_the_options_are_the_fields_of_a_submission(engine: AsyncEngine, database_url: str) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)

    @job("asks", queue="q")
    def asks(payload: dict[str, Any], ctx: Context) -> str:
        child = ctx.submit(
            "leaf", {"number": 7}, queue="else", priority=9, run_at=later, expires_at=later + timedelta(hours=1),
            timeout=5, retry=Retry(max_attempts=2, schedule=(1.0,)), callback_url="https://example.com/",
            callback_events=["job.failed"], tags=["a"], metadata={"k": "v"},
        )  # fmt: skip
        return str(child)

    async with worker_with_handlers(engine, database_url, leaf, asks) as shop:
        done = await shop.finish("asks")
    child = await the_job(engine, UUID(json.loads(done.result or "")))
    assert (child["payload"], child["queue"], child["priority"], child["status"]) == (
        {"number": 7}, "else", 9, "scheduled",
    )  # fmt: skip
    assert (child["run_at"], child["expires_at"] - child["run_at"]) == (later, timedelta(hours=1))
    assert (child["timeout"], child["max_attempts"], child["retry"]["schedule"]) == (5, 2, [1.0])
    assert (child["callback_url"], child["callback_events"]) == ("https://example.com/", ["job.failed"])
    assert (child["tags"], child["metadata"]) == (["a"], {"k": "v"})
    assert {"name": "else"} in [dict(row) for row in await rows(engine, "SELECT name FROM queues")]


@pytest.mark.parametrize(
    ("type_", "payload", "options", "says"),
    [
        ("laef", {}, {}, "leaf"),
        ("leaf", {"number": "x"}, {}, "/payload/number"),
        ("leaf", {"number": object()}, {}, "JSON"),
        ("leaf", {"number": float("nan")}, {}, "NaN or Infinity"),
        ("leaf", {}, {"delay": float("inf")}, "NaN or Infinity"),
        ("leaf", {"number": 2**64 - 1}, {}, "64 bits"),
        ("leaf", {"text": "x" * 300_000}, {}, "larger"),
        ("leaf", {}, {"delay": 1, "run_at": datetime.now(UTC)}, "not both"),
        ("leaf", {}, {"run_at": datetime(2026, 1, 1)}, "offset"),
        ("leaf", {}, {"callback_url": "ftp://example.com"}, "/callback_url"),
        ("leaf", {}, {"priority": 10}, "/priority"),
    ],
)
async def test_a_child_that_a_submission_would_refuse_is_invalid(
    engine: AsyncEngine, database_url: str, type_: str, payload: Any, options: Any, says: str
) -> None:
    said = []

    @job("asks", queue="q")
    async def asks(_: dict[str, Any], ctx: Context) -> None:
        try:
            await ctx.submit(type_, payload, **options)
        except InvalidJob as refusal:
            said.append(str(refusal))
            raise

    async with worker_with_handlers(engine, database_url, leaf, asks) as shop:
        done = await shop.finish("asks")
    assert (done.status, done.attempt) == ("failed", 1)
    assert says in said[0]
    assert '"class":"invalid"' in (done.error or "")


async def test_the_payloads_of_one_attempt_are_limited(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(related_jobs, "MAX_CHILDREN_BYTES", 100)
    async with worker_with_handlers(engine, database_url, leaf, leaves) as shop:
        assert (await shop.finish("leaves", {"count": 8})).status == "succeeded"
        done = await shop.finish("leaves", {"count": 9})
    assert (done.status, done.attempt) == ("failed", 1)
    assert "more than 100 bytes" in (done.error or "")


async def test_generations_are_limited(engine: AsyncEngine, database_url: str) -> None:
    async with worker_with_handlers(engine, database_url, grows, max_fanout_depth=2) as shop:
        root = await shop.accept("grows", {"width": 2})
        await everything_ended(engine)
    found = await rows(engine, "SELECT depth, status, error ->> 'class' AS class, root_id FROM jobs ORDER BY depth")
    assert [(row["depth"], row["status"], row["class"]) for row in found] == (
        [(0, "succeeded", None)] + [(1, "succeeded", None)] * 2 + [(2, "failed", "invalid")] * 4
    )
    assert {row["root_id"] for row in found} == {None, root}
    assert (await the_job(engine, root))["descendants"] == 6


async def test_the_descendants_of_one_root_are_limited(engine: AsyncEngine, database_url: str) -> None:
    async with worker_with_handlers(engine, database_url, grows, max_fanout_jobs=6, max_fanout_depth=9) as shop:
        root = await shop.accept("grows", {"width": 2})
        await everything_ended(engine)
        assert len(await rows(engine, "SELECT 1 FROM jobs")) == 7
        assert (await the_job(engine, root))["descendants"] == 6
        refused = await rows(engine, "SELECT error FROM jobs WHERE status = 'failed'")
        assert len(refused) == 4
        assert {row["error"]["class"] for row in refused} == {"invalid"}
        assert "more than 6" in refused[0]["error"]["message"]


async def test_the_children_of_one_attempt_are_limited(engine: AsyncEngine, database_url: str) -> None:
    async with worker_with_handlers(engine, database_url, leaf, leaves, max_fanout_jobs=2) as shop:
        done = await shop.finish("leaves", {"count": 3})
    assert (done.status, done.attempt) == ("failed", 1)
    assert await rows(engine, "SELECT 1 FROM jobs WHERE type = 'leaf'") == []


async def test_concurrent_attempts_never_pass_the_limit(engine: AsyncEngine) -> None:
    (root,) = await put(engine)

    async def grow() -> bool:
        async with transaction(engine) as conn:
            done = await submission.count_descendants(conn, root, 3, 10)
            await conn.commit()
        return done

    assert sum(await asyncio.gather(*(grow() for _ in range(8)))) == 3
    assert (await the_job(engine, root))["descendants"] == 9


async def test_a_deleted_root_is_not_counted(engine: AsyncEngine, database_url: str) -> None:
    async with worker_with_handlers(engine, database_url, leaf, leaves) as shop:
        parent = await shop.finish("leaves", {}, parent_id=UUID(int=1), root_id=UUID(int=1), depth=1)
        (child,) = await rows(engine, "SELECT root_id, depth FROM jobs WHERE parent_id = :id", id=parent.id)
    assert (child["root_id"], child["depth"]) == (UUID(int=1), 2)


async def test_a_fenced_success_has_no_children(engine: AsyncEngine, database_url: str) -> None:
    (job_id,) = await put(engine)
    (claimed,) = await claim(engine)
    broker = PostgresBroker(engine, database_url)
    child = a_job(type="leaf", parent_id=job_id, root_id=job_id, depth=1)
    success = msgspec.structs.replace(transitions.succeeded(running_attempt(claimed), "1"), children=(child,))
    await do(engine, "UPDATE attempts SET finished_at = now()")
    async with transaction(engine) as conn:
        assert await settle_whole(conn, broker, success, 10) is False
    assert len(await rows(engine, "SELECT 1 FROM jobs")) == 1
    assert (await the_job(engine, job_id))["descendants"] == 0


async def test_children_and_a_transaction_are_one_commit(engine: AsyncEngine, database_url: str) -> None:
    await do(engine, "CREATE TABLE public.effects (n int)")

    @job("both", queue="q")
    async def both(payload: dict[str, Any], ctx: Context) -> None:
        async with ctx.transaction() as conn:
            await conn.execute(text("INSERT INTO effects VALUES (1)"))
        for _ in range(payload["children"]):
            await ctx.submit("leaf")

    async with worker_with_handlers(engine, database_url, leaf, both, max_fanout_jobs=2) as shop:
        parent = await shop.accept("both", {"children": 2})
        done = await shop.finished(parent)
        assert done.status == "succeeded"
        assert len(await rows(engine, "SELECT 1 FROM public.effects")) == 1
        root = await shop.accept("leaf")
        await do(engine, "UPDATE jobs SET descendants = 1 WHERE id = :id", id=root)
        late = await shop.finish("both", {"children": 2}, parent_id=root, root_id=root, depth=1)
    assert (late.status, late.attempt) == ("failed", 1)
    assert '"class":"invalid"' in (late.error or "")
    assert len(await rows(engine, "SELECT 1 FROM public.effects")) == 1, "rolled back with the children"
    assert len(await rows(engine, "SELECT 1 FROM jobs WHERE type = 'leaf'")) == 3


async def test_with_rabbitmq_the_relay_publishes_children_at_once(engine: AsyncEngine) -> None:
    """No client waits for an answer, so only the relay publishes them: their outbox rows are due now."""
    (job_id,) = await put(engine)
    (claimed,) = await claim(engine)
    child = a_job(type="leaf", parent_id=job_id, root_id=job_id, depth=1)
    success = msgspec.structs.replace(transitions.succeeded(running_attempt(claimed), "1"), children=(child,))
    async with transaction(engine) as conn:
        assert await settle_whole(conn, RabbitBroker(["amqp://unused"], engine), success, 10)
    (row,) = await rows(engine, "SELECT job_id, published, due_at <= now() AS due FROM outbox")
    assert dict(row) == {"job_id": child.id, "published": False, "due": True}
