"""`accepted.submit`: a job that is there if, and only if, the transaction of its caller commits."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.tenants import DEFAULT_TENANT
from accepted.services.monitoring.statistics import Measurements
from accepted.storage.db.engine import transaction
from accepted.storage.jobs import metadata_index
from accepted_worker.scheduler.limiter import Limiter
from accepted_worker.scheduler.relay import Relay
from accepted_worker.scheduler.transactions import TransactionalSubmissions
from tests.support.ledger.poll_connection import PollConnection
from tests.support.ledger.sql import do, rows
from tests.support.service.http_app import HttpApp

OPTIONS: dict[str, Any] = {
    "queue": "q", "priority": 4, "expires_at": "2099-01-01T00:00:00Z", "timeout": 5.5, "tags": ["b", "a", "b"],
    "metadata": {"shop": "1", "dé": "\u00fc"}, "callback_url": "https://example.com/hook?x=1",
    "callback_events": ["job.failed"],
}  # fmt: skip
QUEUES = "SELECT name, limited, dedicated, tenant FROM queues LEFT JOIN queue_tenants ON queue = name"
WRITTEN = ("jobs", "outbox", "queues", "queue_tenants", "job_metadata", "transactional_submissions")


@pytest.fixture
async def caller(database_url: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    connection: asyncpg.Connection[Any] = await asyncpg.connect(database_url)
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    yield connection
    await connection.close()


async def submit(caller: "asyncpg.Connection[Any]", payload: Any = None, **options: Any) -> Any:
    return await caller.fetchval("SELECT accepted.submit_v1('noop', $1, $2)", payload or {}, options)


async def relay_once(app: HttpApp, url: str) -> None:
    broker, polls = app.state.broker, PollConnection(app.engine)
    relay = Relay(app.engine, broker, polls)
    await TransactionalSubmissions(app.engine, url, Measurements(), relay.wake).run_once()
    await relay.run_once()
    await Limiter(app.engine, broker, url, 30.0, polls).run_once()


async def written(engine: AsyncEngine, id: object) -> dict[str, Any]:
    """Each column of the job and of its outbox row, and its pairs in the index; times are seconds since the first.

    A published row has the time of its publication.
    """
    (job,) = await rows(engine, "SELECT * FROM jobs WHERE id = :id", id=id)
    (waiting,) = await rows(engine, "SELECT * FROM outbox WHERE job_id = :id", id=id)
    found = {f"jobs.{name}": value for name, value in job.items()}
    found |= {f"outbox.{name}": value for name, value in waiting.items()}
    pairs = await rows(engine, "SELECT pair FROM job_metadata WHERE job_id = :id", id=id)
    found["pairs"] = [row["pair"] for row in pairs]
    for name in ("jobs.run_at", "jobs.created_at", "outbox.due_at"):
        found[name] = round((found[name] - job["created_at"]).total_seconds(), 3)
    if waiting["published"]:
        found["outbox.due_at"] = found["outbox.due_at"] >= 0
    return {name: value for name, value in found.items() if name not in ("jobs.id", "outbox.job_id")}


@pytest.mark.parametrize(
    ("over_http", "in_sql"),
    [
        ({}, {}),
        (OPTIONS, OPTIONS),
        ({"delay": 60.0}, {"delay": 60}),
        ({"retry": {"max_attempts": 2}}, {"max_attempts": 2}),
        ({"priority": 9, "concurrency_key": "k"}, {"priority": 9, "concurrency_key": "k"}),
    ],
    ids=["nothing", "options", "delay", "attempts", "order"],
)
async def test_it_writes_what_a_request_writes(
    app: HttpApp, caller: Any, database_url: str, over_http: dict[str, Any], in_sql: dict[str, Any]
) -> None:
    """Column by column, once the relay has seen it. The queue's own rows are there too."""
    async with transaction(app.engine) as conn:
        await metadata_index.keep_keys(conn, ["shop"])
        await conn.commit()
    payload = {"url": "ü", "n": [1, 2.5, None, True]}
    async with caller.transaction():
        mine = await submit(caller, payload, **in_sql)
    await relay_once(app, database_url)
    queues = await rows(app.engine, QUEUES)
    client = await app.client(DEFAULT_TENANT)
    theirs = (await client.submit("noop", payload, **over_http))["id"]
    await relay_once(app, database_url)
    assert await written(app.engine, mine) == await written(app.engine, theirs)
    assert queues == await rows(app.engine, QUEUES)
    assert (await client.job(str(mine)))["payload"] == payload
    assert await rows(app.engine, "SELECT 1 FROM transactional_submissions") == []


async def test_a_rollback_leaves_nothing(app: HttpApp, caller: Any) -> None:
    """Neither that of the transaction nor that to a savepoint."""
    outer = caller.transaction()
    await outer.start()
    kept = await submit(caller, {"n": 1})
    inner = caller.transaction()
    await inner.start()
    await submit(caller, {"n": 2}, queue="another", metadata={"a": "b"})
    await inner.rollback()
    assert await rows(app.engine, "SELECT 1 FROM jobs") == [], "nobody sees it before the commit"
    await outer.commit()
    assert [row["id"] for row in await rows(app.engine, "SELECT id FROM jobs")] == [kept]

    before = [len(await rows(app.engine, f"SELECT 1 FROM {table}")) for table in WRITTEN]
    gone = caller.transaction()
    await gone.start()
    await submit(caller, queue="another", priority=9)
    await gone.rollback()
    assert [len(await rows(app.engine, f"SELECT 1 FROM {table}")) for table in WRITTEN] == before


async def test_an_open_transaction_holds_up_nobody(app: HttpApp, caller: Any, database_url: str) -> None:
    """On a queue that it was the first to name, and in a series that nobody has counted yet."""
    client = await app.client(DEFAULT_TENANT)
    order = {"queue": "fresh", "priority": 9, "concurrency_key": "k"}
    held = caller.transaction()
    await held.start()
    await submit(caller, metadata={"a": "b"}, **order)
    other = await asyncpg.connect(database_url)
    async with asyncio.timeout(2.5):  # less than lock_timeout
        await client.submit("noop", **order)
        await other.execute("SELECT accepted.submit('noop', queue => 'fresh', priority => 9, concurrency_key => 'k')")
        answer = await client.http.patch("/queues/fresh", json={"max_running": 5, "max_depth": 50})
        assert answer.status_code == 200, answer.text
        await relay_once(app, database_url)
        await client.submit("noop", **order)
    assert len(await rows(app.engine, "SELECT 1 FROM jobs")) == 3
    await held.commit()
    await other.close()
    await relay_once(app, database_url)
    assert len(await rows(app.engine, "SELECT 1 FROM outbox WHERE published OR on_hold")) == 4


@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        ("'nope'", "22023", "type: no worker"),
        ("'webhook.deliver'", "22023", "type: no worker"),
        ("'noop', '[]'", "22023", "payload: must be a JSON object"),
        ("'noop', '{\"n\": 1e300}'", "22023", "payload: has a number"),
        (f"'noop', '{{\"a\": {'[' * 63}1{']' * 63}}}'", "22023", "payload: nests"),
        ("'noop', jsonb_build_object('n', repeat('x', 262144))", "54000", "payload: is larger than 262144"),
        ("'noop', queue => 'UPPER'", "22023", "queue"),
        ("'noop', queue => 'webhooks'", "22023", "queue"),
        ("'noop', priority => 10", "22023", "priority"),
        ("'noop', delay => 1, run_at => now()", "22023", "delay: give run_at or delay"),
        ("'noop', delay => 'NaN'", "22023", "delay"),
        ("'noop', run_at => 'infinity'", "22023", "run_at"),
        ("'noop', expires_at => 'infinity'", "22023", "expires_at"),
        ("'noop', expires_at => '10000-01-01 00:00:00+00'", "22023", "expires_at"),
        ("'noop', expires_at => '0001-12-31 23:59:59+00 BC'", "22023", "expires_at"),
        ("'noop', timeout => 0", "22023", "timeout"),
        ("'noop', max_attempts => 0", "22023", "max_attempts"),
        ("'noop', tags => ARRAY[U&'a\\202e']", "22023", "tags"),
        ("'noop', tags => ARRAY[NULL]", "22023", "tags"),
        ("'noop', metadata => '{\"a\": 1}'", "22023", "metadata"),
        ("'noop', callback_url => 'http://u:p@example.com/'", "22023", "callback_url"),
        ("'noop', callback_events => '{job.failed}'", "22023", "callback_events: needs"),
        ("'noop', concurrency_key => ''", "22023", "concurrency_key"),
        ("'noop', idempotency_key => 'k'", "0A000", "idempotency_key: its record would be locked"),
        ("'noop', ordering_key => 'k'", "0A000", "ordering_key: its place in the line would be locked"),
        ("'noop', \"unique\" => '{}'", "0A000", "unique: its key would be locked"),
    ],
)
async def test_what_it_refuses(app: HttpApp, caller: Any, call: str, code: str, said: str) -> None:
    with pytest.raises(asyncpg.PostgresError, match=said) as refused:
        await caller.execute(f"SELECT accepted.submit({call})")
    assert refused.value.sqlstate == code
    assert await rows(app.engine, "SELECT 1 FROM jobs") == []


async def test_limits_of_the_queue_and_the_tenant(app: HttpApp, caller: Any) -> None:
    await do(app.engine, "INSERT INTO queues (name, max_depth) VALUES ('q', 2), ('shut', 0)")
    async with caller.transaction():
        await submit(caller, queue="q")
        await submit(caller, queue="q")
        for queue in ("q", "shut"):
            with pytest.raises(asyncpg.ConfigurationLimitExceededError, match=f"queue {queue} takes no more than"):
                async with caller.transaction():
                    await submit(caller, queue=queue)
    assert len(await rows(app.engine, "SELECT 1 FROM jobs")) == 2
    await do(app.engine, "INSERT INTO quotas (tenant, jobs, per) VALUES ('default', 5, 60)")
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="quota"):
        await submit(caller)
