"""Polls while somebody holds a transaction open: PostgreSQL keeps the index entries of all that has ended since."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.storage import leases, workers
from accepted.storage.attempts import completion
from accepted.storage.db.engine import transaction
from accepted.storage.db.statements import Direct, Statement
from accepted.storage.jobs import cancellation, outbox
from accepted.storage.jobs.submission import Entry
from accepted_worker.scheduler import relay
from tests.support.ledger.brokers import ListBroker
from tests.support.ledger.jobs import WORKER, a_job, claim, insert, put
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do
from tests.support.waiting import until

GONE = 20_000
FEW = 50
"""Pages that a poll may read beside so many rows that are gone."""

PUBLISHED = f"""
INSERT INTO outbox (job_id, attempt, tenant, queue, priority, due_at, published)
SELECT gen_random_uuid(), 0, 't', 'q', 4, now() - interval '1 hour', false FROM generate_series(1, {GONE})
"""
ENDED = f"""
INSERT INTO attempts (job_id, attempt, worker_id, started_at)
SELECT gen_random_uuid(), 1, '{WORKER}', now() FROM generate_series(1, {GONE})
"""


@pytest.fixture
async def held(engine: AsyncEngine) -> AsyncIterator[None]:
    """Somebody's transaction, while many references are published and many attempts end."""
    async with engine.connect() as other:
        await other.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await other.execute(text("SELECT pg_current_xact_id()"))
        for statement in (PUBLISHED, ENDED, "UPDATE outbox SET published = true", "DELETE FROM outbox"):
            await do(engine, statement)
        await do(engine, "UPDATE attempts SET finished_at = now()")
        yield


@pytest.mark.usefixtures("held")
async def test_polls_do_not_pass_what_has_ended(engine: AsyncEngine) -> None:
    recent = datetime.now(UTC) - timedelta(minutes=1)
    for_all = await pages_read(engine, outbox._NEXT_DUE, since=None, within=1.0)
    assert for_all > FEW, "a look for rows of any age passes them: else this test shows nothing"
    assert await pages_read(engine, outbox._NEXT_DUE, since=recent, within=1.0) < FEW
    assert await pages_read(engine, outbox._TAKE_DUE, since=recent, limit=500, hold=10.0) < FEW
    assert await pages_read(engine, cancellation._REQUESTED, worker_id=WORKER) < FEW
    await put(engine)  # without any job PostgreSQL need not look for its attempts
    async with transaction(engine) as conn:
        await workers.heartbeat(conn, WORKER, "w")
        await conn.commit()
    assert await pages_read(engine, workers._ABANDONED, lease_ttl=30.0, limit=10) < FEW
    assert await pages_read(engine, leases._OVERDUE, limit=10) < FEW


@pytest.mark.usefixtures("held")
async def test_an_outcome_does_not_pass_the_attempts_that_have_ended(engine: AsyncEngine) -> None:
    (job_id,) = await put(engine)
    await claim(engine)
    ended = {"ids": [job_id], "attempts": [1], "worker_ids": [WORKER], "only_alone": False, "finished": [True]}
    ended |= {"statuses": ["succeeded"], "outcomes": ["succeeded"], "results": ["{}"], "crashes": [0], "extra": [0]}
    nothing = {name: [None] for name in completion._APPLY._names}
    assert await pages_read(engine, completion._APPLY, **nothing | ended) < FEW


async def test_a_row_that_is_older_than_the_last_look_is_found(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction may commit long after the moment that it calls now()."""
    monkeypatch.setattr(relay, "QUICK", -0.1)  # every look counts as a slow one: the next of its kind is in 2 s
    broker = ListBroker(engine)
    loop = relay.Relay(engine, broker, PollConnection(engine))
    assert await loop.run_once() == 0
    recent, old = a_job(), a_job()
    await insert(engine, Entry(recent, handoff=0.0), Entry(old, handoff=0.0))
    await do(engine, "UPDATE outbox SET due_at = now() - interval '1 hour' WHERE job_id = :id", id=old.id)
    assert await loop.run_once() == 1
    assert [ref.job_id for ref in broker.sent] == [recent.id], "this look began where the one before has ended"
    await until(loop.run_once, 10, "a look for rows of any age")
    assert [ref.job_id for ref in broker.sent] == [recent.id, old.id]


async def pages_read(engine: AsyncEngine, statement: Statement, **values: Any) -> int:
    """Of the plan for whatever values, as a process keeps it."""
    ledger = Direct(engine)
    async with ledger.transaction() as conn:
        await conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement._sql}"
        (plan,) = await conn.fetchval(explain, *[values[name] for name in statement._names])
    await ledger.close()
    return int(plan["Plan"]["Shared Hit Blocks"]) + int(plan["Plan"]["Shared Read Blocks"])
