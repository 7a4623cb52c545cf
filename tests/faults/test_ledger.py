"""PostgreSQL dies, or cannot be reached: 503 in time, nothing half-done, and the service is back by itself."""

import asyncio
import json
import time

import httpx
import pytest

from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Call, Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.clients.client import read_events
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.proxy import Proxy
from tests.support.waiting import until

PROMISED = 5.0  # seconds: to a 503, and from the ledger's return to a 202
SLACK = 0.5  # seconds for the client and the machine
HOLE = 12.0  # seconds: longer than every deadline on the way


@pytest.mark.fault("F18", moment="under load")
async def test_postgres_killed_and_restarted(
    cluster: Cluster, client: Client, ledger: Ledger, postgres_server: PostgresServer, measured: Measured
) -> None:
    cluster.env["ACCEPTED_LEASE_TTL"] = "6"
    await cluster.start(concurrency=4)
    load = asyncio.create_task(client.load(300, {"seconds": 0.02}, clients=8))
    await until(lambda: len(client.ids) >= 100, 60, "a third of them accepted", interval=0.001)

    await asyncio.to_thread(postgres_server.kill)
    away = [await client.submit({"seconds": 0.02}) for _ in range(20)]
    await asyncio.to_thread(postgres_server.start)
    back = time.monotonic()
    await client.accept()
    measured("from the ledger's return to a 202", time.monotonic() - back, PROMISED)
    await load

    _refused_in_time(away, measured)
    for call in away:
        await client.accept({"seconds": 0.02}, key=call.key)
    await check(ledger, client, cluster.journal)
    assert {call.status for call in client.calls} == {202, 503}
    measured("from the ledger's return to the last job", time.monotonic() - back, 60)


@pytest.mark.fault("F20", moment="under load")
async def test_the_api_behind_a_black_hole_that_heals(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    async with Proxy(ledger.url) as proxy:
        cluster.api_env["ACCEPTED_DATABASE_URL"] = proxy.url_for(ledger.url)
        await cluster.start()
        await client.load(50)
        proxy.blackhole()
        keys = await _hammer(client, HOLE)
        await proxy.heal()
        back = time.monotonic()
        await client.accept()
        measured("from healing to a 202", time.monotonic() - back, PROMISED)
        _refused_in_time([call for call in client.calls if not call.accepted], measured)
        for key in keys:
            await client.accept(key=key)
        await client.load(50)
        await check(ledger, client, cluster.journal)
        assert {call.status for call in client.calls} == {202, 503}


@pytest.mark.slow
@pytest.mark.fault("F20", moment="backlog")
async def test_workers_and_scheduler_behind_a_black_hole_that_heals(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    cluster.env["ACCEPTED_LEASE_TTL"] = "3"
    async with Proxy(ledger.url) as proxy:
        cluster.inner_env["ACCEPTED_DATABASE_URL"] = proxy.url_for(ledger.url)
        await cluster.start(concurrency=4)
        await client.load(100, {"seconds": 0.2}, clients=16)
        await until(lambda: len(effects.read(cluster.journal)) >= 20, 30, "some begun")
        proxy.blackhole()
        lost = time.monotonic()
        while time.monotonic() - lost < HOLE:
            assert (await client.submit()).status == 202, "the API has its own way to the ledger"
            await asyncio.sleep(0.2)  # the pace of this load
        await proxy.heal()
        back = time.monotonic()
        before = len(effects.read(cluster.journal))
        await until(lambda: len(effects.read(cluster.journal)) > before, 30, "a job begins")
        measured("from healing to the first job", time.monotonic() - back, 10)
        await check(ledger, client, cluster.journal)
        measured("from healing to the last job", time.monotonic() - back, 60)


async def _hammer(client: Client, seconds: float) -> list[str]:
    """Submit for so long, four at a time, whatever comes back; the keys."""
    begun = time.monotonic()
    keys: list[str] = []

    async def one() -> None:
        while time.monotonic() - begun < seconds:
            keys.append((await client.submit()).key)

    await asyncio.gather(*(one() for _ in range(4)))
    return keys


def _refused_in_time(calls: list[Call], measured: Measured) -> None:
    assert {call.status for call in calls} == {503}
    assert all(call.retry_after is not None for call in calls)
    measured(f"slowest of {len(calls)} refusals", max(call.seconds for call in calls), PROMISED + SLACK)


@pytest.mark.fault("F70", moment="under load")
async def test_watched_while_the_ledger_is_away(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    """A stream that is open goes on where it was; one that is opened meanwhile is not turned away."""
    async with Proxy(ledger.url) as proxy, httpx.AsyncClient(base_url=cluster.url, timeout=60) as http:
        cluster.api_env["ACCEPTED_DATABASE_URL"] = proxy.url_for(ledger.url)
        await cluster.start(workers=1)
        await cluster.workers[0].terminate()  # its types are known; the stream shall see the job wait
        job_id = await client.accept({"seconds": 8})
        async with http.stream("GET", f"/jobs/{job_id}/events") as answer:
            events = read_events(answer.aiter_lines())
            before = [await anext(events)]
            await cluster.restart_worker(cluster.workers[0])
            before.append(await anext(events))
            proxy.refuse()
            begun = time.monotonic()
            async with http.stream("GET", f"/jobs/{job_id}/events") as new:
                assert new.status_code == 200
                measured("from a stream's request to its 200", time.monotonic() - begun, PROMISED + SLACK)
                lines = new.aiter_lines()
                for _ in range(6):  # three comments, one each second at most
                    assert await anext(lines) in ("", ": waiting")
                await proxy.heal()
                whole = [event async for event in read_events(lines)]
            assert _statuses([*before, *[event async for event in events]]) == _statuses(whole)
        assert [status for _, status in _statuses(whole)] == ["queued", "running", "succeeded"]
        await check(ledger, client, cluster.journal)


def _statuses(events: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Id and status of each: only later streams know when the job was queued."""
    return [(event["id"], json.loads(event["data"])["status"]) for event in events]
