"""POST /batches/{id}/cancel and on_failure: waiting members end, running ones are told, none is missed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.domain.ids import new_id
from accepted.services.batches import ending
from accepted.services.batches.ending import add_up
from accepted.storage.db.engine import transaction
from tests.support.clients.client import PATIENCE, check_problem
from tests.support.ledger.batches import HOOK, accepted, end_some, finished, schedulers, seen, told
from tests.support.ledger.jobs import claim
from tests.support.ledger.sql import do, rows
from tests.support.service.app_without_auth import application
from tests.support.service.in_process_worker import working
from tests.support.waiting import until

SLEEPS = {"type": "sleep", "payload": {"seconds": 300}}


@pytest.fixture
async def http(engine: AsyncEngine, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with application(engine, database_url, egress_allow="127.0.0.0/8") as client:
        yield client


async def cancel(http: httpx.AsyncClient, batch: str) -> Any:
    answer = await http.post(f"/batches/{batch}/cancel")
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/batches/{batch}"
    return answer.json()


async def test_what_waits_ends_at_once(http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker) -> None:
    jobs: list[Any] = [{"type": "noop", "callback_url": HOOK}] * 3 + [{"type": "noop", "delay": 60}] * 3
    batch = await accepted(http, jobs, callback_url=HOOK)
    other = await accepted(http, [{"type": "noop"}])
    await end_some(engine, broker, 1)
    assert (await cancel(http, batch))["counts"] == {"succeeded": 1, "cancelled": 5}
    assert (await seen(http, other))["counts"] == {"queued": 1}
    assert [row["job_id"] for row in await rows(engine, "SELECT job_id FROM outbox WHERE queue = 'default'")] == [
        (await rows(engine, "SELECT id FROM jobs WHERE batch_id = CAST(:id AS uuid)", id=other))[0]["id"]
    ]
    (job,) = (await http.get("/jobs", params={"batch_id": batch, "status": "cancelled", "limit": 1})).json()["items"]
    assert job["error"] == {"class": "cancelled", "message": "cancelled on request", "attempt": 0}
    await add_up(engine, broker)
    done = await seen(http, batch)
    assert (done["finished"], done["counts"]) == (True, {"succeeded": 1, "cancelled": 5})
    assert [hook.get("batch_id") for hook in await told(engine)].count(batch) == 1
    assert len([hook for hook in await told(engine) if hook.get("job_id")]) == 3
    check_problem(await http.post(f"/batches/{batch}/cancel"), 409)
    check_problem(await http.post(f"/batches/{new_id()}/cancel"), 404)


async def test_what_runs_is_told(http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker) -> None:
    batch = await accepted(http, [SLEEPS] * 20)
    async with working(engine, broker, "default", concurrency=4), schedulers(engine, broker):

        async def at_work() -> bool:
            return bool((await seen(http, batch))["counts"].get("running", 0) == 4)

        await until(at_work, PATIENCE, "four to run", interval=0.05)
        await cancel(http, batch)
        again = await http.post(f"/batches/{batch}/cancel")
        assert again.status_code in {202, 409}, "409: all its members have ended"
        assert (await finished(http, batch))["counts"] == {"cancelled": 20}
    (row,) = await rows(engine, "SELECT cancel_requested_at FROM batches")
    assert row["cancel_requested_at"] is None


async def test_a_large_one_is_gone_through_in_rounds(
    http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of schedulers go on, side by side, when the time of the request is over."""
    monkeypatch.setattr(ending, "MAX_CANCELLED", 7)
    monkeypatch.setattr(ending, "IN_REQUEST", 0.0)
    batch = await accepted(http, [{"type": "noop"}] * 200, callback_url=HOOK)
    assert (await cancel(http, batch))["counts"] == {"cancelled": 7, "queued": 193}
    async with schedulers(engine, broker):
        assert (await finished(http, batch))["counts"] == {"cancelled": 200}
    assert len(await told(engine)) == 1


async def test_a_member_on_its_way_is_found_by_the_next_pass(
    http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker
) -> None:
    """A member whose row is locked, as by a claim, is passed over, and the request stays on the batch."""
    batch = await accepted(http, [{"type": "noop"}] * 5)
    async with transaction(engine) as conn:
        await conn.execute(text("SELECT 1 FROM outbox LIMIT 2 FOR UPDATE"))
        async with asyncio.timeout(2.5):
            assert (await cancel(http, batch))["counts"] == {"cancelled": 3, "queued": 2}
        await conn.rollback()
    async with schedulers(engine, broker):
        assert (await finished(http, batch))["counts"] == {"cancelled": 5}


async def test_claims_and_a_cancel_at_the_same_time(
    http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker
) -> None:
    batch = await accepted(http, [{"type": "noop"}] * 400)

    async def work() -> None:
        while await claim(engine, 3, queue="default"):
            pass

    async with schedulers(engine, broker):
        await asyncio.gather(cancel(http, batch), *(work() for _ in range(4)))

        async def settled() -> bool:
            (row,) = await rows(engine, "SELECT cancel_requested_at FROM batches")
            return row["cancel_requested_at"] is None

        await until(settled, PATIENCE, "a pass that misses none")
    counts = (await seen(http, batch))["counts"]
    assert set(counts) <= {"running", "cancelled"}
    (leases,) = await rows(engine, "SELECT count(*), count(cancel_requested_at) AS told FROM attempts")
    assert leases["count"] == leases["told"] == counts.get("running", 0)


async def test_on_failure_cancel(http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker) -> None:
    batch = await accepted(http, [{"type": "noop", "delay": 60}] * 9 + [{"type": "noop"}] * 2, on_failure="cancel")
    spared = await accepted(http, [{"type": "noop", "delay": 60}, {"type": "noop", "queue": "other"}])
    await end_some(engine, broker, 1)
    async with schedulers(engine, broker):
        await end_some(engine, broker, 1, failed=True)
        done = await finished(http, batch)
        assert done["counts"] == {"succeeded": 1, "failed": 1, "cancelled": 9}
    await do(engine, "UPDATE jobs SET queue = 'default' WHERE batch_id = CAST(:id AS uuid)", id=spared)
    await do(engine, "UPDATE outbox SET queue = 'default'")
    await end_some(engine, broker, 1, failed=True)
    await add_up(engine, broker)
    assert (await seen(http, spared))["counts"] == {"scheduled": 1, "failed": 1}


async def test_a_retry_after_a_cancel_runs(
    http: httpx.AsyncClient, engine: AsyncEngine, broker: PostgresBroker
) -> None:
    batch = await accepted(http, [{"type": "noop"}] * 2)
    await cancel(http, batch)
    (job, _) = (await http.get("/jobs", params={"batch_id": batch})).json()["items"]
    assert (await http.post(f"/jobs/{job['id']}/retry")).status_code == 202
    async with working(engine, broker, "default"), schedulers(engine, broker):
        assert (await finished(http, batch))["counts"] == {"succeeded": 1, "cancelled": 1}
