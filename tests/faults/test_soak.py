"""The soak: a steady load, faults at random, then peace, and the checker. `make soak MINUTES=10 SEED=7`.

Without MINUTES it is a short round, as a part of `make faults`.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.faults import nemesis
from tests.faults.audit import OURS
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.nemesis import Stage
from tests.faults.watch import MemoryWatch
from tests.faults.webhooks import NO_LONGER_WAITING, NOTHING_AGAINST, WebhookJournal
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.ports import free_port
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until

MINUTES = float(os.environ.get("MINUTES") or 0.75)
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(10_000))
RATE = 100.0  # jobs a second, when nothing is broken
CLIENTS = 128
TOLD = 0.25  # share of the jobs that want a webhook
PEACE = 180.0  # seconds for everything to be done once the faults are over
LONG = 5.0  # minutes from which on the memory is judged; before, processes still warm up
FLAT = 3.0  # MiB a minute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(MINUTES * 60 + PEACE + 240)]


@pytest.fixture
def journal(tmp_path: Path) -> WebhookJournal:
    return WebhookJournal(tmp_path)


@pytest.fixture
async def proxies(ledger: Ledger, amqp_vhost: VirtualHost) -> AsyncIterator[dict[str, Proxy]]:
    """One in front of each server on each side, each to be broken by itself."""
    targets = {
        "api to PostgreSQL": ledger.url, "api to broker": amqp_vhost.url,
        "inside to PostgreSQL": ledger.url, "inside to broker": amqp_vhost.url,
    }  # fmt: skip
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Proxy(target)) for name, target in targets.items()}


@pytest.mark.fault("F58", moment="under load")
async def test_faults_at_random_under_a_steady_load(
    cluster: Cluster,
    client: Client,
    ledger: Ledger,
    postgres_server: PostgresServer,
    rabbitmq_node: RabbitMQNode,
    amqp_vhost: VirtualHost,
    proxies: dict[str, Proxy],
    journal: WebhookJournal,
) -> None:
    _say(f"soak of {MINUTES:g} minutes: MINUTES={MINUTES:g} SEED={SEED}")
    for environment, side in ((cluster.api_env, "api"), (cluster.inner_env, "inside")):
        environment["ACCEPTED_DATABASE_URL"] = proxies[f"{side} to PostgreSQL"].url_for(ledger.url)
        environment["ACCEPTED_BROKER_URL"] = proxies[f"{side} to broker"].url_for(amqp_vhost.url)
    cluster.env["ACCEPTED_LEASE_TTL"] = "5"
    second = free_port()
    await asyncio.gather(cluster.start(workers=3, schedulers=2, concurrency=20), cluster.add_api(second))
    client.visit(f"http://127.0.0.1:{second}")
    watch = MemoryWatch({"api": cluster.api, "scheduler": cluster.scheduler, "worker": cluster.workers[0]})
    watching = asyncio.create_task(watch.run())
    told: list[str] = []
    async with journal.receiver() as receiver, Proxy(receiver.url) as way:
        links = {**proxies, "worker to receiver": way}
        stage = Stage(cluster, postgres_server, rabbitmq_node, amqp_vhost.name, ledger, links)
        stop = asyncio.Event()
        load = asyncio.gather(*(_load(client, told, way.port, n, stop) for n in range(CLIENTS)))
        try:
            made = await nemesis.haunt(nemesis.arsenal(stage), SEED, MINUTES * 60, _say)
        finally:
            stop.set()
        await load
        await _peace(ledger)
        given_up = await _given_up(ledger)
        await check(ledger, client, cluster.journal, within=PEACE, failed=given_up)
        await journal.check(told, within=60)
    watching.cancel()
    await until(lambda: _connected(ledger), 30, "somebody is connected")
    _report(client, made, told, journal, given_up, watch, await _connected(ledger))
    assert not given_up, f"given up after three crashes: {sorted(given_up)[:5]}"
    for name, (slope, _) in watch.slopes().items():
        assert MINUTES < LONG or slope < FLAT, f"the memory of {name} grows"


async def _load(client: Client, told: list[str], receiver: int, number: int, stop: asyncio.Event) -> None:
    """One client: a job, again and again until it is accepted, then a pause that keeps the rate."""
    choice = random.Random(f"{SEED}-{number}")
    while not stop.is_set():
        begun = time.monotonic()
        fields: dict[str, object] = {"priority": choice.randrange(10)}
        if choice.random() < 0.2:
            fields["delay"] = round(choice.uniform(0, 5), 3)
        wants = choice.random() < TOLD
        if wants:
            fields["callback_url"] = f"http://127.0.0.1:{receiver}/"
        job_id = await client.accept({"seconds": round(choice.uniform(0, 0.1), 3)}, **fields)
        if wants:
            told.append(job_id)
        await asyncio.sleep(max(CLIENTS / RATE - (time.monotonic() - begun), 0))


async def _peace(ledger: Ledger) -> None:
    """Webhooks that failed twice would wait for minutes: their waits are cut short, and all of it ends."""

    async def quiet() -> bool:
        await ledger.execute(NO_LONGER_WAITING, NOTHING_AGAINST)
        return not await ledger.value("SELECT count(*) FROM outbox")

    await until(quiet, PEACE, "everything to be done", interval=0.5)


async def _given_up(ledger: Ledger) -> set[str]:
    sql = "SELECT id::text FROM jobs WHERE status = 'failed' AND error->>'class' = 'crashed'"
    return {row[0] for row in await ledger.fetch(sql)}


async def _connected(ledger: Ledger) -> int:
    return int(await ledger.value(OURS))


def _report(
    client: Client,
    made: list[str],
    told: list[str],
    journal: WebhookJournal,
    given_up: set[str],
    watch: MemoryWatch,
    connections: int,
) -> None:
    seen = client.verdict
    assert seen is not None
    _say(f"jobs submitted {seen.attempted}, acknowledged {seen.acknowledged}, lost {seen.lost}")
    _say(f"recorded twice {seen.duplicated}, unexpected {seen.unexpected}, recovered {seen.recovered}")
    _say(f"calls {len(client.calls)}, of which accepted {sum(call.accepted for call in client.calls)}")
    _say(f"faults {len(made)}, of {len(set(made))} kinds")
    _say(f"webhooks wanted {len(told)}, delivered {len(set(told)) - len(journal.missing(set(told)))}")
    _say(f"given up after three crashes {len(given_up)}")
    _say(f"connections to PostgreSQL at the end {connections}")
    for name, (slope, size) in watch.slopes().items():
        _say(f"memory of {name}: {size:.0f} MiB at the end, {slope:+.2f} MiB a minute over the second half")


def _say(line: str) -> None:
    print(line, flush=True)
