"""A process that one attempt takes along: that attempt is charged, and nothing else that ran there."""

from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain import transitions
from accepted.domain.job import WEBHOOK_QUEUE
from accepted.domain.references import Lease
from accepted.services.jobs.crashes import charge_culprit
from accepted.storage import workers
from accepted.storage.db.engine import transaction
from accepted.storage.db.statements import Direct
from tests.support.ledger.jobs import WORKER, apply, claim, put, running_attempt, the_job
from tests.support.ledger.sql import do, rows

DELIVERIES = UUID(int=0xD)
ELSEWHERE = UUID(int=0xE)
WHY = "blocked the event loop for 60 s at handlers.py:7"


async def charge(engine: AsyncEngine, culprit: Lease, direct: bool = False) -> int:
    broker = PostgresBroker(engine, "")
    if not direct:
        async with transaction(engine) as conn:
            handed_back = await charge_culprit(conn, broker, [WORKER, DELIVERIES], culprit, WHY)
            await conn.commit()
        return handed_back
    ledger = Direct(engine)
    async with ledger.transaction() as driver:
        handed_back = await charge_culprit(driver, broker, [WORKER, DELIVERIES], culprit, WHY)
        await driver.commit()
    await ledger.close()
    return handed_back


@pytest.mark.parametrize("direct", [False, True])
async def test_the_culprit_is_charged_and_its_siblings_go_back_as_they_were(engine: AsyncEngine, direct: bool) -> None:
    async with transaction(engine) as conn:
        for worker in (WORKER, DELIVERIES, ELSEWHERE):
            await workers.heartbeat(conn, worker, "w")
        await conn.commit()
    await put(engine, 9)
    culprit, *siblings = await claim(engine)
    await put(engine, 2, type="webhook.deliver", queue=WEBHOOK_QUEUE)
    siblings += await claim(engine, worker=DELIVERIES, queue=WEBHOOK_QUEUE)
    assert len(siblings) == 10
    await put(engine, queue="other")
    (elsewhere,) = await claim(engine, worker=ELSEWHERE, queue="other")

    assert await charge(engine, culprit.lease, direct) == 10

    job = await the_job(engine, culprit.job.id)
    assert (job["status"], job["crashes"], job["max_attempts"]) == ("queued", 1, 3)
    assert (job["error"]["class"], job["error"]["message"]) == ("crashed", f"{WHY}: crash 1")
    for sibling in siblings:
        job = await the_job(engine, sibling.job.id)
        assert (job["status"], job["crashes"], job["max_attempts"], job["error"]) == ("queued", 0, 4, None)
    ended = {row["job_id"]: row["outcome"] for row in await rows(engine, "SELECT * FROM attempts")}
    assert ended == {
        culprit.job.id: "crashed", elsewhere.job.id: None, **{one.job.id: "handed_back" for one in siblings},
    }  # fmt: skip
    assert [row["id"] for row in await rows(engine, "SELECT id FROM workers")] == [ELSEWHERE]
    assert len(await rows(engine, "SELECT 1 FROM outbox")) == 11


async def test_the_third_crash_of_a_culprit_is_its_last_with_all_that_follows(engine: AsyncEngine) -> None:
    (id,) = await put(engine, max_attempts=50, callback_url="http://example.com/")
    for _ in range(3):
        await do(engine, "UPDATE outbox SET published = true, due_at = now()")
        (claimed,) = await claim(engine)
        assert await charge(engine, claimed.lease) == 0
    job = await the_job(engine, id)
    assert (job["status"], job["error"]["class"]) == ("failed", "crashed")
    assert "at most 3 are allowed" in job["error"]["message"]
    assert [row["job_id"] for row in await rows(engine, "SELECT job_id FROM dead_letters")] == [id]
    assert len(await rows(engine, "SELECT 1 FROM jobs WHERE type = 'webhook.deliver'")) == 1


async def test_a_culprit_that_lost_its_lease_is_charged_no_more(engine: AsyncEngine) -> None:
    await put(engine, 2)
    culprit, sibling = await claim(engine)
    assert await apply(engine, transitions.crashed(running_attempt(culprit), 0.0)) == [True]
    assert await charge(engine, culprit.lease) == 1
    assert (await the_job(engine, culprit.job.id))["crashes"] == 1
    assert (await the_job(engine, sibling.job.id))["crashes"] == 0
