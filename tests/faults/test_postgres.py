"""PostgreSQL restarted, robbed of its connections, slow, or locked: 503 in time, and back by itself."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Literal

import asyncpg
import pytest

from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.servers.postgres import PostgresServer, connect
from tests.support.servers.proxy import Proxy
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PROMISED = 5.0  # seconds: to a 503, and from the ledger's return to a 202
SLACK = 1.5  # seconds for the client and a busy machine
OURS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'accepted'"


@pytest.mark.fault("F19", moment="under load")
@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_postgres_restarted(
    mode: Literal["fast", "immediate"],
    cluster: Cluster,
    client: Client,
    ledger: Ledger,
    postgres_server: PostgresServer,
    measured: Measured,
) -> None:
    await cluster.start(concurrency=4)
    load = asyncio.create_task(client.load(200, {"seconds": 0.02}))
    for target in (50, 100):
        await until(lambda target=target: len(client.ids) >= target, 60, "some accepted", interval=0.001)
        await asyncio.to_thread(postgres_server.stop, mode)
        await asyncio.to_thread(postgres_server.start)
    back = time.monotonic()
    await client.accept()
    measured("from the ledger's return to a 202", time.monotonic() - back, PROMISED)
    await load
    await check(ledger, client, cluster.journal)
    assert {call.status for call in client.calls} <= {202, 503}


@pytest.mark.fault("F21", moment="under load")
async def test_connections_terminated_again_and_again(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await cluster.start(concurrency=4)
    load = asyncio.create_task(client.load(300, {"seconds": 0.05}))
    storms = 0
    while not load.done() or storms < 5:
        await ledger.execute(OURS)
        storms += 1
        await asyncio.sleep(0.5)  # the pace of the storm
    await load
    await check(ledger, client, cluster.journal)
    assert {call.status for call in client.calls} <= {202, 503}


@pytest.mark.fault("F22", moment="under load")
async def test_connection_slots_exhausted(cluster: Cluster, client: Client, ledger: Ledger, measured: Measured) -> None:
    await cluster.start(concurrency=4)
    await client.load(50)
    async with _all_slots(ledger) as taken:
        assert taken > 50
        refused = [await client.submit() for _ in range(10)]
        assert {call.status for call in refused} == {503}
        assert all(call.retry_after is not None for call in refused)
        measured("slowest refusal", max(call.seconds for call in refused), PROMISED + SLACK)
    back = time.monotonic()
    await client.accept()
    measured("from free slots to a 202", time.monotonic() - back, PROMISED + SLACK)
    await client.load(50)
    for call in refused:
        await client.accept(key=call.key)
    await check(ledger, client, cluster.journal)


@pytest.mark.fault("F24", moment="under load")
async def test_a_slow_ledger(cluster: Cluster, client: Client, ledger: Ledger, measured: Measured) -> None:
    """Slow, and everything takes longer; too slow for an answer in time, and it is 503 in time."""
    async with Proxy(ledger.url) as proxy:
        cluster.env["ACCEPTED_DATABASE_URL"] = proxy.url_for(cluster.env["ACCEPTED_DATABASE_URL"])
        cluster.env["ACCEPTED_LEASE_TTL"] = "10"
        await cluster.start()
        proxy.delay(0.05)
        await client.load(60, clients=30)
        proxy.delay(0.5)
        shed = await asyncio.gather(*(client.submit() for _ in range(60)))
        assert {call.status for call in shed} <= {202, 503}
        measured("slowest answer", max(call.seconds for call in client.calls), PROMISED + SLACK)
        await proxy.heal()
        back = time.monotonic()
        await client.accept()
        measured("from healing to a 202", time.monotonic() - back, PROMISED + SLACK)
        proxy.slice(7)
        for call in shed:
            await client.accept(key=call.key)
        await proxy.heal()
        await check(ledger, client, cluster.journal)


@pytest.mark.fault("F25", moment="under load")
async def test_a_long_transaction_under_load(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    """Shorter than the ten minutes that hurt: it shows that nothing waits for it, not how far bloat goes."""
    await cluster.start()
    await client.load(20)
    await ledger.drained(30)
    without = await _rate(client, ledger)
    async with _session(ledger, "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM jobs"):
        held = [await _rate(client, ledger) for _ in range(3)]
    measured("slowest round beside it, against one without,", max(held) / without, 5)
    await check(ledger, client, cluster.journal)


@pytest.mark.fault("F26", moment="under load")
async def test_a_lock_on_the_whole_table(cluster: Cluster, client: Client, ledger: Ledger, measured: Measured) -> None:
    await cluster.start()
    await client.load(50, {"seconds": 0.1})
    async with _session(ledger, "BEGIN", "LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"):
        begun = time.monotonic()
        refused = []
        while time.monotonic() - begun < 12:
            refused += await asyncio.gather(*(client.submit() for _ in range(4)))
        assert {call.status for call in refused} == {503}
        measured("slowest refusal", max(call.seconds for call in refused), PROMISED + SLACK)
    back = time.monotonic()
    await client.accept()
    measured("from the lock's end to a 202", time.monotonic() - back, PROMISED + SLACK)
    for call in refused:
        await client.accept(key=call.key)
    await check(ledger, client, cluster.journal)


@pytest.mark.fault("F28", moment="before COMMIT")
async def test_a_deadlock_whose_victim_we_are(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    """Another session holds the last key and then asks for all the others, which our batch has inserted by then.

    They become one batch while the one before them waits for a key that a third session holds.
    """
    await cluster.start()
    keys = [f"deadlock-{number:02}" for number in range(20)]
    record = "INSERT INTO idempotency_keys VALUES ('{0}', '{1}', 'x', gen_random_uuid(), now()) ON CONFLICT DO NOTHING"
    await client.accept()
    tenant = await ledger.value("SELECT tenant FROM idempotency_keys LIMIT 1")
    held, before = record.format(tenant, keys[-1]), record.format(tenant, "before")
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with (
        _session(ledger, "BEGIN", before) as first,
        _session(ledger, "SET deadlock_timeout = '1min'", "BEGIN", held) as session,
    ):
        load = asyncio.gather(client.accept(key="before"), *(client.accept(key=key) for key in keys))
        await until(lambda: ledger.value(waits), 10, "the batch before waits")
        await asyncio.sleep(1.5)  # nobody outside sees the batch grow; a lock is waited for for 3 s
        await first.execute("ROLLBACK")
        await until(lambda: _waits_for(ledger, session), 10, "the batch waits for the last key")
        for key in reversed(keys[:-1]):
            await session.execute(record.format(tenant, key))
        await session.execute("ROLLBACK")
        await load
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    await until(lambda: ledger.value(deadlocks), 15, "PostgreSQL has seen a deadlock")
    await check(ledger, client, cluster.journal)
    assert {call.status for call in client.calls} <= {202, 503}


async def _waits_for(ledger: Ledger, session: asyncpg.Connection) -> bool:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"
    return bool(await ledger.value(sql, session.get_server_pid()))


async def _rate(client: Client, ledger: Ledger) -> float:
    """Seconds for fifty jobs, from the first submission to the last end."""
    begun = time.monotonic()
    await client.load(50)
    await ledger.drained(60)
    return time.monotonic() - begun


@contextlib.asynccontextmanager
async def _session(ledger: Ledger, *statements: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(ledger.url)
    try:
        for statement in statements:
            await connection.execute(statement)
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def _all_slots(ledger: Ledger) -> AsyncIterator[int]:
    """Every connection that the server gives is ours, those that it takes from the service included."""
    held: list[asyncpg.Connection] = []
    killer = await connect(ledger.url)
    try:
        while True:
            with contextlib.suppress(asyncpg.TooManyConnectionsError):
                while True:
                    held.append(await connect(ledger.url, timeout=5))
            if not await killer.fetch(OURS):  # it has reconnected to none of the slots that the last kill freed
                break
        yield len(held)
    finally:
        await asyncio.gather(*(one.close() for one in [killer, *held]))
