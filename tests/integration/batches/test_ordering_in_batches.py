"""`ordering_key` in batches: members are in their lines in the order of the batch, with no other job between them."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.batch import NewBatch
from accepted.domain.ids import new_id
from accepted.services.batches.ending import cancel
from accepted.services.batches.submission import CHUNK, BatchReceipt, BatchSubmission, BatchSubmissions
from accepted.services.jobs.placement import line_of
from tests.support.ledger.brokers import BrokerHarness
from tests.support.ledger.jobs import a_job
from tests.support.ledger.sql import rows
from tests.support.service.claiming_workers import (
    OVERLAPS,
    accept,
    all_finished,
    anything,
    claiming_workers,
    submissions_of,
    success,
)

FORKS = """
SELECT 1 FROM dependencies GROUP BY needs HAVING count(*) > 1
UNION ALL SELECT 1 FROM dependencies GROUP BY job_id HAVING count(*) > 1
"""


@pytest.fixture
def ledger(engine: AsyncEngine, broker: PostgresBroker) -> BrokerHarness:
    return BrokerHarness("postgres", engine, broker)


def keyed(keys: Sequence[str | None]) -> BatchSubmission:
    batch = NewBatch(id=new_id(), tenant="t", total=len(keys))
    jobs = [a_job(queue="q", batch_id=batch.id, ordering_key=key) for key in keys]
    lines = {line for job in jobs if (line := line_of(job)) is not None}
    return BatchSubmission(batch=batch, jobs=jobs, queues={"q": len(jobs)}, ordering_lines=lines)


async def put(harness: BrokerHarness, keys: Sequence[str | None]) -> tuple[list[UUID], BatchReceipt]:
    """The members' ids, in the order of the batch."""
    asked = keyed(keys)
    receipt = await BatchSubmissions(harness.engine, harness.broker, 60).accept(asked)
    return [job.id for job in asked.jobs], receipt


async def test_members_run_in_order_behind_those_before_and_before_those_behind(harness: BrokerHarness) -> None:
    keys: list[str | None] = [random.choice([*"abc", None]) for _ in range(60)]
    async with submissions_of(harness) as submissions:
        before = {key: await accept(submissions, queue="q", ordering_key=key) for key in "abc"}
        members, _ = await put(harness, keys)
        behind = {key: await accept(submissions, queue="q", ordering_key=key) for key in "abc"}
    async with claiming_workers(harness, success) as order:
        await all_finished(harness)
    for key in "abc":
        of_key = [id for id, k in zip(members, keys, strict=True) if k == key]
        line = [before[key], *of_key, behind[key]]
        assert [id for id in order if id in line] == line
    assert await rows(harness.engine, OVERLAPS) == [{"count": 0}]


async def test_a_line_that_is_longer_than_a_statement(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    members, receipt = await put(ledger, ["a"] * (2 * CHUNK + 1))
    assert receipt.batch.counts == {"queued": 1, "blocked": 2 * CHUNK}
    edges = {row["needs"]: row["job_id"] for row in await rows(engine, "SELECT * FROM dependencies")}
    assert edges == dict(itertools.pairwise(members))


async def test_all_at_once_with_the_same_keys(harness: BrokerHarness) -> None:
    """Chunks of two batches have the keys in different orders: lines that are locked one by one would deadlock."""
    forth, back = ["a"] * CHUNK + ["b"] * CHUNK, ["b"] * CHUNK + ["a"] * CHUNK
    batches = BatchSubmissions(harness.engine, harness.broker, 60)
    async with submissions_of(harness) as submissions:
        singles = [accept(submissions, queue="q", ordering_key=key) for key in "abab"]
        await asyncio.gather(*(batches.accept(keyed(keys)) for keys in (forth, back) * 2), *singles)
    assert await rows(harness.engine, FORKS) == []
    (found,) = await rows(harness.engine, "SELECT count(*) FROM dependencies")
    assert found["count"] == 4 * 2 * CHUNK + 4 - 2


async def test_whatever_becomes_of_them_nobody_waits_for_ever(harness: BrokerHarness) -> None:
    async with claiming_workers(harness, anything):
        for _ in range(4):
            await put(harness, [random.choice("abcd") for _ in range(30)])
        await all_finished(harness)
    assert await rows(harness.engine, OVERLAPS) == [{"count": 0}]


async def test_a_cancelled_batch_passes_the_turn_on(ledger: BrokerHarness, engine: AsyncEngine) -> None:
    members, receipt = await put(ledger, ["a", "a", "b"])
    async with submissions_of(ledger) as submissions:
        behind = await accept(submissions, queue="q", ordering_key="a")
    assert await cancel(engine, ledger.broker, "t", receipt.batch.id)
    found = {row["id"]: row["status"] for row in await rows(engine, "SELECT id, status FROM jobs")}
    assert found == dict.fromkeys(members, "cancelled") | {behind: "queued"}
