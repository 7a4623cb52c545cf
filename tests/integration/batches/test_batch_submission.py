"""Accepting batches: everything in one transaction, answered after its COMMIT, and once for each key."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.domain.batch import NewBatch, Spread
from accepted.domain.ids import new_id
from accepted.domain.job import NewJob
from accepted.errors import KeyReused, LedgerUnavailable
from accepted.services.batches.submission import CHUNK, BatchReceipt, BatchSubmission, BatchSubmissions
from accepted.storage.db.engine import create_engine, transaction
from tests.support.ledger.jobs import a_job
from tests.support.ledger.sql import rows, waits_for_a_lock
from tests.support.waiting import until


def a_batch(jobs: list[NewJob], key: str | None = None, fingerprint: bytes = b"1", **more: Any) -> BatchSubmission:
    batch = NewBatch(id=new_id(), tenant="t", total=len(jobs))
    members = [a_job(queue=job.queue, payload=job.payload, batch_id=batch.id) for job in jobs]
    return BatchSubmission(
        batch=batch, jobs=members, queues=Counter(job.queue for job in members), key=key,
        fingerprint=fingerprint if key else None, **more,
    )  # fmt: skip


def some(count: int) -> list[NewJob]:
    return [a_job(queue=f"q{number % 3}", payload=f'{{"n":{number}}}') for number in range(count)]


async def test_all_members_are_there(engine: AsyncEngine, broker: Broker) -> None:
    asked = a_batch(some(CHUNK * 2 + 1))
    receipt = await BatchSubmissions(engine, broker, 60).accept(asked)
    assert not receipt.replayed
    assert (receipt.batch.id, receipt.batch.total) == (asked.batch.id, CHUNK * 2 + 1)
    assert receipt.batch.counts == {"queued": CHUNK * 2 + 1}
    (found,) = await rows(engine, "SELECT count(*), count(DISTINCT j.id), min(j.batch_id::text) AS batch FROM jobs j")
    assert (found["count"], found["batch"]) == (CHUNK * 2 + 1, str(asked.batch.id))
    (row,) = await rows(engine, "SELECT count(*) FROM outbox WHERE published")
    assert row["count"] == CHUNK * 2 + 1
    assert {row["name"] for row in await rows(engine, "SELECT name FROM queues")} >= {"q0", "q1", "q2"}
    (row,) = await rows(engine, "SELECT * FROM batches")
    assert (row["counts"], row["finished_at"], row["workflow"]) == ({"queued": CHUNK * 2 + 1}, None, False)


async def test_a_member_that_cannot_be_written_takes_all_with_it(engine: AsyncEngine, broker: Broker) -> None:
    members = [*some(CHUNK), a_job(payload="no json")]
    with pytest.raises(Exception, match="json"):
        await BatchSubmissions(engine, broker, 60).accept(a_batch(members, "k"))
    for table in ("jobs", "outbox", "batches", "idempotency_keys"):
        assert await rows(engine, f"SELECT 1 FROM {table}") == []


async def test_a_key_makes_one_batch(engine: AsyncEngine, broker: Broker) -> None:
    batches = BatchSubmissions(engine, broker, 60)
    receipts = await asyncio.gather(*(batches.accept(a_batch(some(20), "k")) for _ in range(12)))
    assert len({receipt.batch.id for receipt in receipts}) == 1
    assert [receipt.replayed for receipt in receipts].count(False) == 1
    assert {receipt.batch.total for receipt in receipts} == {20}
    (found,) = await rows(engine, "SELECT count(*) FROM jobs")
    assert found["count"] == 20
    with pytest.raises(KeyReused):
        await batches.accept(a_batch(some(20), "k", b"2"))


async def test_nobody_waits_on_a_key_for_as_long_as_a_batch_takes(engine: AsyncEngine, broker: Broker) -> None:
    """The record is written last: a submission that commits in between is first, and the batch is that one's."""
    slow, quick = a_batch(some(2), "k"), a_batch(some(5), "k")
    members = list(slow.jobs)
    slow = msgspec.structs.replace(slow, edges=[(members[0].id, members[1].id)])
    batches = BatchSubmissions(engine, broker, 60)
    async with transaction(engine) as conn:
        await conn.execute(text("LOCK TABLE dependencies"))
        late = asyncio.create_task(batches.accept(slow))
        await until(lambda: waits_for_a_lock(engine), what="the edges to wait for us")
        receipt = await batches.accept(quick)
        await conn.rollback()
    assert (receipt.batch.total, receipt.replayed) == (5, False)
    assert await late == BatchReceipt(receipt.batch, replayed=True)
    (found,) = await rows(engine, "SELECT count(*) FROM jobs")
    assert found["count"] == 5


async def test_edges_wait_for_success(engine: AsyncEngine, broker: Broker) -> None:
    batch = NewBatch(id=new_id(), tenant="t", total=2, workflow=True)
    first, second = a_job(batch_id=batch.id, ref="a"), a_job(batch_id=batch.id, ref="b", blockers=1)
    asked = BatchSubmission(batch=batch, jobs=[first, second], queues={"q": 2}, edges=[(first.id, second.id)])
    receipt = await BatchSubmissions(engine, broker, 60).accept(asked)
    assert receipt.batch.counts == {"queued": 1, "blocked": 1}
    (edge,) = await rows(engine, "SELECT * FROM dependencies")
    assert dict(edge) == {"needs": first.id, "job_id": second.id, "on_success": True, "broken": False}
    found = {row["id"]: row["has_dependents"] for row in await rows(engine, "SELECT id, has_dependents FROM jobs")}
    assert found == {first.id: True, second.id: False}


async def test_a_ledger_that_is_away_is_heard_of_in_time() -> None:
    engine = create_engine("postgresql://nobody@127.0.0.1:1/none")
    broker: Any = None
    started = asyncio.get_running_loop().time()
    with pytest.raises(LedgerUnavailable):
        await BatchSubmissions(engine, broker, 60).accept(a_batch(some(1), "k"))
    assert asyncio.get_running_loop().time() - started < 10
    await engine.dispose()


async def test_a_ledger_that_hangs_is_heard_of_in_time(engine: AsyncEngine, broker: Broker) -> None:
    batches = BatchSubmissions(engine, broker, 60)
    async with transaction(engine) as conn:
        await conn.execute(text("LOCK TABLE batches"))
        started = asyncio.get_running_loop().time()
        with pytest.raises(LedgerUnavailable):
            await batches.accept(a_batch(some(1)))
        assert asyncio.get_running_loop().time() - started < 10
        await conn.rollback()
    assert (await batches.accept(a_batch(some(1)))).batch.total == 1


def test_members_are_spread_evenly() -> None:
    start = datetime(2027, 1, 1, 9, tzinfo=UTC)
    spread = Spread(start, 90.0)
    placed = [spread.placed(a_job(), number, 4).run_at for number in range(4)]
    assert placed == [start + timedelta(seconds=22.5 * number) for number in range(4)]
    assert [Spread(None, 90.0).placed(a_job(), number, 4).delay for number in range(4)] == [0, 22.5, 45, 67.5]
    assert {Spread(start).placed(a_job(), number, 4).run_at for number in range(4)} == {start}
    job = a_job(delay=5.0)
    assert Spread().placed(job, 3, 4) == job
