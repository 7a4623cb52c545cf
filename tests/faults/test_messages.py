"""Whatever is published to a work queue: it is run once, dropped or set aside, and nothing behind it waits."""

import asyncio
import json
from itertools import chain, islice, repeat
from uuid import uuid4

import aio_pika
import pytest

from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.service.processes import Service
from tests.support.waiting import until

QUEUE = f"accepted.q.{effects.QUEUE}"
DEAD = "accepted.dead"
DUPLICATES = 1000

NESTED = b"[" * 5000 + b"]" * 5000
UNREADABLE = [
    b"",
    b"no JSON",
    b"\xff\xfe\x00",
    b"{",
    b"[]",
    b"null",
    b"7",
    b"{}",
    NESTED,
    b" " * 2**20,
    b'{"v":1}',
    b'{"v":1,"id":"not a uuid","attempt":0}',
    b'{"v":1,"id":"%s","attempt":-1}',
    b'{"v":1,"id":"%s","attempt":99999999999999999999}',
    b'{"v":1,"id":"%s","attempt":2147483648}',
    b'{"v":1,"id":"%s","attempt":1.5}',
    b'{"v":1,"id":"%s","attempt":"0"}',
    b'{"v":1,"id":"%s","attempt":null}',
    b'{"v":2,"id":"%s","attempt":0}',
    b'{"v":"1","id":"%s","attempt":0}',
    b'{"v":1,"id":"%s","attempt":0,"more":1}',
    b'{"v":1,"id":"%s","attempt":0}garbage',
]

ODD = [
    {"priority": 255},
    {"headers": {"x-death": [{"count": 3, "queue": "q", "reason": "rejected"}], "traceparent": 7}},
    {"headers": {f"h{n}": n for n in range(500)}},
    {"headers": {"deep": {"er": {"still": [1, None, True, {"x": "y" * 300}]}}}},
    {"reply_to": "amq.gen-nobody", "correlation_id": "c", "content_encoding": "gzip", "content_type": "text/plain"},
    {"delivery_mode": aio_pika.DeliveryMode.NOT_PERSISTENT, "type": "no such type", "message_id": "no id"},
]


@pytest.mark.fault("F38", "F55", moment="under load")
async def test_a_thousand_duplicates_and_a_hundred_bad_messages(
    cluster: Cluster,
    client: Client,
    ledger: Ledger,
    rabbitmq_node: RabbitMQNode,
    amqp_vhost: VirtualHost,
) -> None:
    await cluster.start()
    ids = await client.load(50)
    await ledger.drained(30)
    bad = list(islice(chain.from_iterable(repeat(_unreadable())), 90)) + [_reference(str(uuid4())) for _ in range(10)]
    stale = [_reference(job_id, attempt) for job_id in ids[:5] for attempt in (0, 1, 7)]
    async with await aio_pika.connect(amqp_vhost.url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("accepted.jobs")

        async def publish(body: bytes, **properties: object) -> None:
            message = aio_pika.Message(body, **properties)  # type: ignore[arg-type]
            await exchange.publish(message, QUEUE)

        load = asyncio.create_task(client.load(100, clients=4))
        for n, body in enumerate(bad):
            await publish(body, **ODD[n % len(ODD)])
        for n, body in enumerate(stale):
            await publish(body, **ODD[n % len(ODD)])
        doubled = [_reference(job_id) for job_id in await load]
        fresh = [await client.accept({"seconds": 0.2}) for _ in range(10)]
        await asyncio.gather(
            *(publish(body) for body in islice(chain.from_iterable(repeat(doubled)), DUPLICATES)),
            *(publish(_reference(job_id)) for job_id in fresh for _ in range(5)),
        )
        jobs = await check(ledger, client, cluster.journal)
        assert {job["attempt"] for job in jobs.values()} == {1}, "each ran once"
        await until(
            lambda: _ready(rabbitmq_node, amqp_vhost) == {QUEUE: 0, DEAD: len(bad)},
            30,
            _seen(rabbitmq_node, amqp_vhost),
        )
        kept = sorted(await _drain(channel))
        assert kept == sorted(bad), "what nobody can read is kept as it came"


@pytest.mark.fault("F38", moment="job runs")
async def test_a_message_for_a_job_that_is_running_or_gone_on_runs_nothing(
    cluster: Cluster, client: Client, ledger: Ledger, amqp_vhost: VirtualHost
) -> None:
    """While it runs, after it failed once, and with an attempt from the future."""
    await cluster.start()
    job_id = await client.accept({"seconds": 1})
    await until(lambda: len(effects.read(cluster.journal)) == 1, 30, "it has begun")
    async with await aio_pika.connect(amqp_vhost.url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("accepted.jobs")
        for attempt in (0, 1, 2, 5):
            await exchange.publish(aio_pika.Message(_reference(job_id, attempt)), QUEUE)
    jobs = await check(ledger, client, cluster.journal)
    assert jobs[job_id]["attempt"] == 1
    assert len(effects.of(effects.read(cluster.journal), "started")) == 1


@pytest.mark.fault("F38", moment="ledger away")
async def test_a_bad_message_that_comes_while_the_ledger_is_away_is_rejected_once(
    cluster: Cluster,
    client: Client,
    ledger: Ledger,
    rabbitmq_node: RabbitMQNode,
    amqp_vhost: VirtualHost,
) -> None:
    """A second reject of one delivery is an error for which RabbitMQ closes the channel, with all that is on it."""
    async with Proxy(ledger.url) as proxy:
        cluster.inner_env["ACCEPTED_DATABASE_URL"] = proxy.url_for(ledger.url)
        await cluster.start(workers=1)
        worker = cluster.workers[0]
        await client.load(3)
        await ledger.drained(30)
        proxy.refuse()
        async with await aio_pika.connect(amqp_vhost.url) as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange("accepted.jobs")
            await exchange.publish(aio_pika.Message(b"no JSON"), QUEUE)
            await client.load(3)
            await until(lambda: _fails_again_and_again(worker), 30, "claims that fail")
        await proxy.heal()
        await check(ledger, client, cluster.journal)
        await until(lambda: _ready(rabbitmq_node, amqp_vhost) == {QUEUE: 0, DEAD: 1}, 30, "the bad one set aside, once")
        assert worker.log(10_000).count("message_rejected") == 1
        assert "consumer_lost" not in worker.log(10_000)


def _unreadable() -> list[bytes]:
    return [body.replace(b"%s", str(uuid4()).encode()) for body in UNREADABLE]


def _reference(job_id: str, attempt: int = 0) -> bytes:
    return json.dumps({"v": 1, "id": job_id, "attempt": attempt}).encode()


def _ready(node: RabbitMQNode, vhost: VirtualHost) -> dict[str, int]:
    rows = node.queues(vhost.name)
    return {name: rows[name][0] + rows[name][1] for name in (QUEUE, DEAD)}


def _seen(node: RabbitMQNode, vhost: VirtualHost) -> "object":
    return lambda: f"an empty queue and all bad messages set aside: {node.queues(vhost.name)}"


async def _drain(channel: aio_pika.abc.AbstractChannel) -> list[bytes]:
    queue = await channel.get_queue(DEAD)
    bodies = []
    while message := await queue.get(no_ack=True, fail=False):
        bodies.append(message.body)
    return bodies


def _fails_again_and_again(worker: Service) -> bool:
    """Repeated claims that fail are one line, with their count."""
    lines = [line for line in worker.log(10_000).splitlines() if '"claim_failed"' in line]
    return any('"repeated"' in line for line in lines)
