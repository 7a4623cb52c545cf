"""Clients by the thousand: the same key, cut off in mid-request, all due at once, more than there are sockets."""

import asyncio
import contextlib
import json
import random
import resource
import time

import httpx
import psutil
import pytest

from accepted.broker.rabbitmq.prefetch import AHEAD
from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.proxy import reset
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

HERD = 10_000
SLOTS = 40  # of one worker in the herd
STORM = 2_000
AT_ONCE = 100
LATER = 3600.0  # seconds

MULTIPLY = """
WITH new AS MATERIALIZED (SELECT n, uuidv7() AS id FROM generate_series(2, {count}) AS n), jobs_made AS (
    INSERT INTO jobs SELECT (jsonb_populate_record(
        j, jsonb_build_object('id', new.id, 'metadata', jsonb_build_object('key', 'herd-' || new.n))
    )).* FROM jobs j, new WHERE j.id = '{one}'
)
INSERT INTO outbox SELECT (jsonb_populate_record(o, jsonb_build_object('job_id', new.id))).*
FROM outbox o, new WHERE o.job_id = '{one}'
"""
"""The same job as if it had been submitted so often, each under a key of its own."""


@pytest.mark.fault("F52", moment="idle")
async def test_a_thousand_submissions_of_one_key_at_once(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await cluster.start()
    key = client.new_key()
    calls = await asyncio.gather(*(client.submit({"seconds": 0.01}, key=key) for _ in range(1000)))
    assert {call.status for call in calls} == {202}
    assert sum(not call.replayed for call in calls) == 1
    others = await asyncio.gather(*(client.submit({"seconds": 0.02}, key=key) for _ in range(100)))
    assert {call.status for call in others} == {422}
    assert len(await check(ledger, client, cluster.journal)) == 1


@pytest.mark.fault("F53", moment="job runs")
async def test_a_key_forgotten_while_its_job_runs(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    """The job goes on; the key, past its time, makes a job of its own."""
    cluster.env["ACCEPTED_IDEMPOTENCY_TTL"] = "2"
    await cluster.start()
    call = await client.submit({"seconds": 6})
    replay = await client.submit({"seconds": 6}, key=call.key)
    assert (replay.job_id, replay.replayed) == (call.job_id, True)
    sql = "SELECT count(*) FROM idempotency_keys WHERE expires_at > now()"
    await until(lambda: _none(ledger, sql), 10, "the key's time is over")
    assert call.job_id is not None
    assert (await ledger.jobs())[call.job_id]["status"] == "running"
    again = await client.submit({"seconds": 6}, key=call.key)
    assert again.accepted
    assert not again.replayed
    await ledger.drained(60)
    jobs = await ledger.jobs()
    assert jobs.keys() == {call.job_id, again.job_id}
    assert {(job["status"], job["attempt"]) for job in jobs.values()} == {("succeeded", 1)}


@pytest.mark.fault("F51", moment="under load")
async def test_clients_that_hang_up_anywhere_in_their_request(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await cluster.start()
    load = asyncio.create_task(client.load(200))
    keys = [client.new_key() for _ in range(STORM)]
    client.attempted.update(keys)
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(key: str) -> None:
        async with turn:
            await _cut_off(cluster.port, key)

    await asyncio.gather(*(one(key) for key in keys))
    await load
    for key in random.sample(keys, 100):
        await client.accept(key=key)
    await check(ledger, client, cluster.journal)
    assert {call.status for call in client.calls} == {202}


@pytest.mark.fault("F48", moment="under load")
async def test_an_api_without_file_descriptors(
    cluster: Cluster, client: Client, ledger: Ledger, measured: Measured
) -> None:
    await cluster.start()
    await client.load(20)
    pid = cluster.api.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (psutil.Process(pid).num_fds() + 5, before[1]))
    held = [await asyncio.open_connection("127.0.0.1", cluster.port) for _ in range(50)]
    starved = await asyncio.gather(*(client.submit() for _ in range(20)))
    assert {call.status for call in starved} <= {202, 503, None}
    assert cluster.api.running
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    back = time.monotonic()
    for _, writer in held:
        writer.close()
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=10) as fresh:
        assert (await fresh.get("/healthz")).status_code == 200
    await client.accept()
    measured("from free descriptors to a 202", time.monotonic() - back, 10)
    for call in starved:
        await client.accept(key=call.key)
    await check(ledger, client, cluster.journal)


@pytest.mark.fault("F50", moment="all due at once")
async def test_ten_thousand_jobs_due_in_one_instant(
    cluster: Cluster,
    client: Client,
    ledger: Ledger,
    rabbitmq_node: RabbitMQNode,
    amqp_vhost: VirtualHost,
    measured: Measured,
) -> None:
    """And the broker comes back from a restart in that instant, so every worker connects anew."""
    cluster.env["ACCEPTED_LEASE_TTL"] = "15"
    await cluster.start(workers=2, concurrency=SLOTS)
    one = await client.accept(delay=LATER)
    client.attempted.update(f"herd-{number}" for number in range(2, HERD + 1))
    await ledger.execute(MULTIPLY.format(one=one, count=HERD))
    await asyncio.to_thread(rabbitmq_node.restart)
    await ledger.execute("UPDATE outbox SET due_at = now()")  # the instant, whenever the last one was accepted
    begun = time.monotonic()
    most = 0

    async def finished() -> bool:
        nonlocal most
        with contextlib.suppress(RuntimeError):
            most = max([most, *(unacked for _, unacked, _ in rabbitmq_node.queues(amqp_vhost.name).values())])
        return await ledger.count("succeeded") == HERD

    await until(finished, 300, "all of them done", interval=2)
    measured(f"{HERD} jobs from their instant to the last end", time.monotonic() - begun, 300)
    assert most <= 2 * (SLOTS + AHEAD), "more unacked than workers hold"
    await check(ledger, client, cluster.journal)
    assert len(effects.of(effects.read(cluster.journal), "started")) == HERD


async def _cut_off(port: int, key: str) -> None:
    """A whole request for a job, of which a random part is sent before the connection is reset."""
    body = json.dumps({"type": effects.TYPE, "payload": {}, "metadata": {"key": key}}).encode()
    head = (
        f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request[: random.randint(1, len(request))])
        await writer.drain()
        await asyncio.sleep(random.choice([0, 0, 0.001, 0.01]))
        reset(writer)


async def _none(ledger: Ledger, sql: str) -> bool:
    return not await ledger.value(sql)
