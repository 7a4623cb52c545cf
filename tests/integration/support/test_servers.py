"""The servers that the tests start behave as the fault tests assume."""

import asyncio
import sys
from pathlib import Path
from uuid import uuid4

import aio_pika
import asyncpg
import psutil
import pytest

from tests.support.servers.addresses import VirtualHost
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.proxy import Proxy
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.service.processes import ROOT
from tests.support.waiting import until

SPAWN_AND_WAIT = """
import os, sys, threading, time
from pathlib import Path
from tests.support.servers.children import spawn

def start():
    home = Path(sys.argv[1])
    print(spawn(["sleep", "600"], env=dict(os.environ), log=home / "log", cwd=home).pid, flush=True)

thread = threading.Thread(target=start)
thread.start()
thread.join()
print("joined", flush=True)
time.sleep(600)
"""


async def test_postgres_keeps_what_it_committed_through_a_crash(postgres_server: PostgresServer) -> None:
    name = f"crash_{uuid4().hex}"
    url = postgres_server.create_database(name)
    committed, open_ = await asyncpg.connect(url), await asyncpg.connect(url)
    await committed.execute("CREATE TABLE kept (n int)")
    await committed.execute("INSERT INTO kept VALUES (1)")
    await open_.execute("BEGIN; INSERT INTO kept VALUES (2)")

    postgres_server.kill()

    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await committed.execute("SELECT 1")
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(url)
    postgres_server.start()
    assert postgres_server.execute("SELECT array_agg(n) FROM kept", name) == "{1}"
    postgres_server.drop_database(name)


async def test_postgres_clones_a_template(postgres_server: PostgresServer) -> None:
    template, copy = f"one_{uuid4().hex}", f"two_{uuid4().hex}"
    postgres_server.create_database(template)
    postgres_server.execute("CREATE TABLE here AS SELECT 7 AS n", template)
    postgres_server.create_database(copy, template=template)
    postgres_server.execute("UPDATE here SET n = 8", copy)
    assert postgres_server.execute("SELECT n FROM here", template) == "7"
    for name in (template, copy):
        postgres_server.drop_database(name)


async def test_postgres_stands_behind_a_proxy(postgres_server: PostgresServer) -> None:
    async with Proxy(postgres_server.url()) as proxy:
        connection = await asyncpg.connect(proxy.url_for(postgres_server.url()))
        assert await connection.fetchval("SELECT 1") == 1
        proxy.cut()
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await connection.fetchval("SELECT 1")


async def test_rabbitmq_counts_ready_unacked_and_consumers(
    rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost
) -> None:
    async with await aio_pika.connect(amqp_vhost.url) as connection:
        channel = await _publish(connection, "accepted.q.counted", 3)
        await channel.set_qos(prefetch_count=1)
        queue = await channel.get_queue("accepted.q.counted")
        await queue.consume(_keep)
        await until(lambda: rabbitmq_node.queues(amqp_vhost.name) == {"accepted.q.counted": (2, 1, 1)})
        rabbitmq_node.purge("accepted.q.counted", amqp_vhost.name)
        await until(lambda: rabbitmq_node.queues(amqp_vhost.name) == {"accepted.q.counted": (0, 1, 1)})
    rabbitmq_node.delete_queue("accepted.q.counted", amqp_vhost.name)
    assert rabbitmq_node.queues(amqp_vhost.name) == {}


@pytest.mark.slow
async def test_rabbitmq_keeps_confirmed_messages_through_a_crash_and_loses_all_by_a_wipe(
    rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost
) -> None:
    async with await aio_pika.connect(amqp_vhost.url) as connection:
        await _publish(connection, "accepted.q.kept", 5)

    rabbitmq_node.kill()
    with pytest.raises(ConnectionError):
        await aio_pika.connect(amqp_vhost.url)
    rabbitmq_node.start()
    await until(lambda: rabbitmq_node.queues(amqp_vhost.name) == {"accepted.q.kept": (5, 0, 0)})

    rabbitmq_node.wipe()
    assert rabbitmq_node.queues(amqp_vhost.name) == {}
    async with await aio_pika.connect(amqp_vhost.url) as connection:
        await _publish(connection, "accepted.q.kept", 1)


async def test_rabbitmq_blocks_publishers_by_a_memory_alarm(
    rabbitmq_node: RabbitMQNode, amqp_vhost: VirtualHost
) -> None:
    async with await aio_pika.connect(amqp_vhost.url) as connection:
        await _publish(connection, "accepted.q.blocked", 1)
        rabbitmq_node.set_memory_alarm(True)
        waiting = asyncio.create_task(_publish(connection, "accepted.q.blocked", 1))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        rabbitmq_node.set_memory_alarm(False)
        await asyncio.wait_for(waiting, 10)


async def test_rabbitmq_answers_several_at_once(rabbitmq_node: RabbitMQNode) -> None:
    answers = await asyncio.gather(*(asyncio.to_thread(rabbitmq_node.eval, f"{n} + 1") for n in range(50)))
    assert answers == [str(n + 1) for n in range(50)]


async def test_children_die_with_the_test_run(tmp_path: Path) -> None:
    """Even when that is killed, and when what started them was a thread that has long ended."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SPAWN_AND_WAIT, str(tmp_path), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    child = psutil.Process(int(await parent.stdout.readline()))
    await parent.stdout.readline()  # the thread has ended
    assert child.is_running(), "it must outlive the thread that asked for it"
    parent.kill()
    await parent.wait()
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, what="its death")


async def _keep(_: aio_pika.abc.AbstractIncomingMessage) -> None:
    """Neither ack nor reject."""


async def _publish(connection: aio_pika.abc.AbstractConnection, queue: str, count: int) -> aio_pika.abc.AbstractChannel:
    channel = await connection.channel()
    await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})
    for _ in range(count):
        message = aio_pika.Message(b"{}", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, queue)
    return channel
