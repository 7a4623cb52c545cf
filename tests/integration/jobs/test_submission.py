"""The statement that accepts jobs: every column, the ledger's clock, and keys that decide by the unique index."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.storage.attempts.claims import claim_next, claim_refs
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import idempotency, outbox, submission
from accepted.storage.jobs.submission import Accepted, Entry
from tests.support.ledger.jobs import DAY, WORKER, a_job, insert
from tests.support.ledger.sql import rows


async def test_every_column_is_written(engine: AsyncEngine) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    given: dict[str, Any] = {
        "tenant": "acme",
        "type": "a.type",
        "queue": "a-queue",
        "payload": '{"ü": [1, "\\""]}',
        "priority": 9,
        "max_attempts": 7,
        "retry": '{"max_attempts":7}',
        "timeout": 1.5,
        "run_at": later,
        "expires_at": later + timedelta(hours=1),
        "callback_url": "https://example.com/",
        "callback_events": ("job.failed",),
        "tags": ('a"b', "c\\d", "e,f", "{g}", "NULL", "", "ü"),
        "metadata": '{"k": "v"}',
        "traceparent": "00-x",
        "parent_id": UUID(int=1),
        "root_id": UUID(int=2),
        "depth": 3,
        "concurrency_key": "c",
        "ordering_key": "o",
        "batch_id": UUID(int=3),
        "ref": "load",
    }
    job = a_job(**given)
    accepted = await insert(engine, Entry(job))
    as_text = "CAST(payload AS text) p, CAST(retry AS text) r, CAST(metadata AS text) m"
    (row,) = await rows(engine, f"SELECT *, {as_text} FROM jobs")
    for name in ("tenant", "type", "queue", "priority", "max_attempts", "timeout", "run_at", "expires_at",
                 "callback_url", "traceparent", "parent_id", "root_id", "depth", "concurrency_key", "ordering_key",
                 "batch_id", "ref"):  # fmt: skip
        assert row[name] == given[name], name
    assert (row["p"], row["r"], row["m"]) == (given["payload"], given["retry"], given["metadata"])
    assert (tuple(row["tags"]), tuple(row["callback_events"])) == (given["tags"], given["callback_events"])
    assert (row["status"], row["attempt"], row["crashes"]) == ("scheduled", 0, 0)
    assert row["result"] is row["error"] is row["progress"] is row["started_at"] is row["finished_at"] is None
    assert accepted[job.id] == Accepted("scheduled", row["created_at"], later)
    (waiting,) = await rows(engine, "SELECT * FROM outbox")
    assert dict(waiting) == {
        "job_id": job.id, "attempt": 0, "queue": "a-queue", "priority": 9, "due_at": later, "published": False,
        "expires_at": given["expires_at"], "on_hold": False, "admitted": False, "concurrency_key": "c",
        "unserved": "", "tenant": "acme",
    }  # fmt: skip


async def test_a_job_that_waits_for_others_is_blocked_and_not_published(engine: AsyncEngine) -> None:
    job = a_job(blockers=2)
    assert (await insert(engine, Entry(job)))[job.id].status == "blocked"
    (waiting,) = await rows(engine, "SELECT published, on_hold, due_at = 'infinity' AS never FROM outbox")
    assert dict(waiting) == {"published": False, "on_hold": True, "never": True}
    async with transaction(engine) as conn:
        assert await claim_refs(conn, WORKER, [(job.id, 0)]) == []
        assert await claim_next(conn, WORKER, ["q"], 10) == []
        assert await outbox.take_due(conn, 10, 60.0) == ([], [])


async def test_many_at_once_keep_their_own_values(engine: AsyncEngine) -> None:
    jobs = [a_job(payload=f'{{"n":{n}}}', tags=(f"t{n}",) * (n % 3), priority=n % 10) for n in range(200)]
    await insert(engine, *(Entry(job) for job in jobs))
    found = {row["id"]: row for row in await rows(engine, "SELECT * FROM jobs")}
    assert len(found) == 200
    for job in jobs:
        assert (found[job.id]["payload"], tuple(found[job.id]["tags"])) == ({"n": int(job.payload[5:-1])}, job.tags)
        assert found[job.id]["priority"] == job.priority


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, "queued"),
        ({"delay": 0.0}, "queued"),
        ({"delay": 60.0}, "scheduled"),
        ({"run_at": datetime(2000, 1, 1, tzinfo=UTC)}, "queued"),
    ],
)
async def test_the_ledgers_clock_decides_what_is_due(engine: AsyncEngine, fields: dict[str, Any], status: str) -> None:
    job = a_job(**fields)
    accepted = (await insert(engine, Entry(job)))[job.id]
    assert accepted.status == status
    wait = (accepted.run_at - accepted.created_at).total_seconds()
    assert wait == fields.get("delay", 0)


@pytest.mark.parametrize(("handoff", "published", "due_in"), [(None, True, 0.0), (0.0, False, 0.0), (5.0, False, 5.0)])
async def test_who_publishes(engine: AsyncEngine, handoff: float | None, published: bool, due_in: float) -> None:
    job = a_job()
    accepted = (await insert(engine, Entry(job, handoff=handoff)))[job.id]
    (row,) = await rows(engine, "SELECT * FROM outbox")
    assert row["published"] is published
    assert (row["due_at"] - accepted.created_at).total_seconds() == due_in


async def test_a_key_makes_one_job(engine: AsyncEngine) -> None:
    first, second = a_job(), a_job()
    assert await insert(engine, Entry(first, "k", b"1")) != {}
    assert await insert(engine, Entry(second, "k", b"2")) == {}
    other = a_job(tenant="another")
    assert other.id in await insert(engine, Entry(other, "k", b"1"))
    assert len(await rows(engine, "SELECT * FROM jobs")) == len(await rows(engine, "SELECT * FROM outbox")) == 2
    async with transaction(engine) as conn:
        record = (await idempotency.recall(conn, [("t", "k")]))["t", "k"]
    assert (record.fingerprint, record.job_id) == (b"1", first.id)


async def test_a_key_past_its_time_is_taken_over(engine: AsyncEngine) -> None:
    first, second = a_job(), a_job()
    await insert(engine, Entry(first, "k", b"1"), ttl=-1)
    assert second.id in await insert(engine, Entry(second, "k", b"2"))
    async with transaction(engine) as conn:
        record = (await idempotency.recall(conn, [("t", "k")]))["t", "k"]
    assert (record.fingerprint, record.job_id) == (b"2", second.id)


@pytest.mark.parametrize("ttl", [DAY, -1])
async def test_one_key_in_many_transactions_at_once_makes_one_job(engine: AsyncEngine, ttl: float) -> None:
    """Also for an expired record: the submissions that take it over wait for its row."""
    await insert(engine, Entry(a_job(), "taken", b"0"), ttl=ttl)
    keys = ["fresh", "taken"] if ttl < 0 else ["fresh"]
    answers = await asyncio.gather(*(insert(engine, *(Entry(a_job(), k, b"1") for k in keys)) for _ in range(10)))
    assert sum(map(len, answers)) == len(keys)


async def test_batches_of_the_same_keys_in_opposite_order_do_not_deadlock(engine: AsyncEngine) -> None:
    keys = [f"k{n}" for n in range(40)]
    batches = [[Entry(a_job(), key, b"1") for key in order] for order in (keys, keys[::-1]) * 4]
    answers = await asyncio.gather(*(insert(engine, *batch) for batch in batches))
    assert sum(map(len, answers)) == len(keys)


async def test_left_uncommitted_nothing_is_there(engine: AsyncEngine) -> None:
    async with transaction(engine) as conn:
        await submission.insert(conn, [Entry(a_job(), "k", b"1")], DAY)
    for table in ("jobs", "outbox", "idempotency_keys"):
        assert await rows(engine, f"SELECT * FROM {table}") == []
