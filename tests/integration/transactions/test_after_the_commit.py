"""What becomes of a job that `accepted.submit` has made, once its transaction has committed."""

import statistics
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.failures import FailureClass
from accepted.domain.tenants import DEFAULT_TENANT
from accepted.services.jobs.claiming import LeasedJob, claim_leases
from accepted.services.leased_payloads import LeasedPayloads
from accepted.services.monitoring.statistics import Measurements
from accepted.storage.db.statements import Direct
from accepted_worker.scheduler import relay
from accepted_worker.scheduler.transactions import TransactionalSubmissions
from tests.support.clients.lease_client import one_lease, register, service
from tests.support.ledger.brokers import BrokerHarness
from tests.support.ledger.sql import do, rows
from tests.support.service.in_process_worker import attempts, has, registered, working
from tests.support.waiting import until

SUBMIT = "SELECT accepted.submit($1, CAST($2 AS jsonb), queue => 'fresh', priority => $3)"
POLL = 0.2
"""Seconds: the relay's pause, on which this test does not wait. Most commits are with a worker in 10 ms."""


async def test_a_worker_has_it_at_once(
    harness: BrokerHarness, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On either broker, beside a transaction that never ends, on a queue that it is the first to name."""
    monkeypatch.setattr(relay, "LONGEST_PAUSE", 60.0)
    await registered(harness.engine)
    old = await asyncpg.connect(database_url)
    caller = await asyncpg.connect(database_url)
    try:
        await old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await old.execute("SELECT accepted.submit('noop', queue => 'other')")
        async with working(harness.engine, harness.broker, queue=None, database_url=database_url):
            first = await caller.fetchval(SUBMIT, "noop", "{}", 4)
            await until(has(harness.engine, first, "succeeded"), 20, "the first job of a new queue")
            delays = [await start_delay(harness.engine, caller) for _ in range(11)]
            assert statistics.median(delays) < POLL, delays
            ordered = await caller.fetchval(SUBMIT, "noop", "{}", 9)
            await until(has(harness.engine, ordered, "succeeded"), 20, "a job that limits its queue")
            unfit = await caller.fetchval(SUBMIT, "http.request", '{"method": "GET"}', 4)
            job = await until(has(harness.engine, unfit, "failed"), 20, "a payload that does not fit")
            assert job.error is not None
            assert '"class":"invalid"' in job.error.replace(" ", "")
            assert "/url: Field required" in job.error
            assert len(await rows(harness.engine, "SELECT 1 FROM dead_letters WHERE class = 'invalid'")) == 1
        await old.execute("ROLLBACK")
    finally:
        await caller.close()
        await old.close()
    assert await rows(harness.engine, "SELECT 1 FROM jobs WHERE queue = 'other'") == []


async def test_an_http_worker_gets_no_payload_that_does_not_fit(database_url: str) -> None:
    """The schema is all that there is to check it by."""
    caller = await asyncpg.connect(database_url)
    async with service(database_url) as one:
        client = await one.client(DEFAULT_TENANT)
        await register(client, payload_schema={"type": "object", "required": ["url"]})
        unfit, good = [
            str(await caller.fetchval("SELECT accepted.submit('node.echo', CAST($1 AS jsonb))", payload))
            for payload in ("{}", '{"url": "x"}')
        ]
        assert (await one_lease(client))["job"]["id"] == good
        job = await client.job(unfit)
        assert (job["status"], job["error"]["class"]) == ("failed", "invalid")
        assert "/payload/url: is required" in job["error"]["message"]
        letters = (await client.get("/dead-letters")).json()["items"]
        assert [letter["job_id"] for letter in letters] == [unfit]
    await caller.close()


async def test_a_lease_that_ends_during_the_check_holds_up_no_other(database_url: str) -> None:
    caller = await asyncpg.connect(database_url)
    async with service(database_url, lease_ttl=30) as one:
        client, claimed = await one.client(DEFAULT_TENANT), list[LeasedJob]()
        await register(client, payload_schema={"type": "object", "required": ["url"]})
        unfit, good = [
            await caller.fetchval("SELECT accepted.submit('node.echo', CAST($1 AS jsonb))", payload)
            for payload in ("{}", '{"url": "x"}')
        ]
        ledger = Direct(one.state.engine)

        async def both_claimed() -> bool:
            claimed.extend(
                await claim_leases(ledger, name="w", tenant=DEFAULT_TENANT, queue="node", types=None, limit=10)
            )
            return len(claimed) == 2

        await until(both_claimed, 20, "both jobs")
        (ended,) = [each.leased.lease for each in claimed if each.job.id == unfit]
        await one.state.leases.fail(DEFAULT_TENANT, ended, FailureClass.TRANSIENT, "too late", None)
        fitting = await LeasedPayloads(one.state.type_cache, one.state.leases).fitting(claimed)
        assert [each.job.id for each in fitting] == [good]
        await ledger.close()
    await caller.close()


async def test_it_is_counted_once(engine: AsyncEngine, database_url: str) -> None:
    """In the statistics, by whichever scheduler comes first. Two tenants on a queue limit it."""
    await registered(engine)
    await do(engine, "SELECT accepted.submit('noop', queue => 'q') FROM generate_series(1, 3)")
    await do(engine, "INSERT INTO transactional_submissions (tenant, queue, type) VALUES ('other', 'q', 'noop')")
    measurements = Measurements()
    loops = [TransactionalSubmissions(engine, database_url, measurements, lambda: None) for _ in range(2)]
    assert [await loop.run_once() for loop in loops] == [4, 0]
    await measurements.report(engine)
    series = "SELECT tenant, sum(accepted) AS n FROM statistics JOIN statistic_series s ON s.id = series"
    counted = await rows(engine, f"{series} WHERE type = 'noop' GROUP BY 1 ORDER BY 1")
    assert [(row["tenant"], row["n"]) for row in counted] == [("default", 3), ("other", 1)]
    (queue,) = await rows(engine, "SELECT name, limited FROM queues")
    assert dict(queue) == {"name": "q", "limited": True}


async def start_delay(engine: AsyncEngine, caller: Any) -> float:
    """Seconds from the answer to the COMMIT to the claim, by the ledger's clock."""
    async with caller.transaction():
        id: UUID = await caller.fetchval(SUBMIT, "noop", "{}", 4)
    committed: datetime = await caller.fetchval("SELECT clock_timestamp()")
    await until(has(engine, id, "succeeded"), 20, "a job of an open queue")
    (attempt,) = await attempts(engine, id)
    return (attempt.started_at - committed).total_seconds()
