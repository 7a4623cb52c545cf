"""Before there is anything to work with: servers that are not there yet, a schema that is not there yet, an old one."""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.service.processes import run
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DEAD = "accepted.dead"
SLOWLY = """
CREATE FUNCTION take_long() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); END';
CREATE EVENT TRIGGER slowly ON ddl_command_end EXECUTE FUNCTION take_long();
"""


@pytest.mark.fault("F57", moment="at start")
async def test_the_service_is_there_before_its_servers(
    cluster: Cluster, client: Client, ledger: Ledger, postgres_server: PostgresServer, rabbitmq_node: RabbitMQNode
) -> None:
    """Alive, and not ready; then all of it is, without a hand."""
    await asyncio.gather(asyncio.to_thread(postgres_server.stop), asyncio.to_thread(rabbitmq_node.stop))
    starting = asyncio.create_task(cluster.start())
    await until(lambda: _status(cluster, "/healthz", 200), 30, "alive")
    assert await _status(cluster, "/readyz", 503)
    assert (await client.submit()).status == 503
    servers: list[Callable[[], None]] = [postgres_server.start, rabbitmq_node.start]
    random.shuffle(servers)
    for start in servers:
        await asyncio.to_thread(start)
    await starting
    await client.load(40)
    for call in [call for call in client.calls if not call.accepted]:
        await client.accept(key=call.key)
    await check(ledger, client, cluster.journal)


@pytest.mark.fault("F27", moment="at start")
async def test_a_migration_killed_in_the_middle_while_the_service_waits_for_it(
    cluster: Cluster, client: Client, empty_database_url: str
) -> None:
    ledger = Ledger(empty_database_url)
    env = {"ACCEPTED_DATABASE_URL": empty_database_url}
    cluster.env |= env
    starting = asyncio.create_task(cluster.start())
    await until(lambda: _status(cluster, "/readyz", 503), 30, "alive, and not ready")
    await ledger.execute(*SLOWLY.strip().split("\n"))
    migration = cluster.run("migrate")
    await until(lambda: ledger.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 30, "it migrates")
    migration.signal(signal.SIGKILL)
    await migration.wait_exit()
    await ledger.execute("DROP EVENT TRIGGER slowly")
    assert not await ledger.value("SELECT count(*) FROM pg_tables WHERE tablename = 'jobs'"), "half a schema"
    await asyncio.gather(*(asyncio.to_thread(run, "migrate", env=env) for _ in range(3)))
    await starting
    await client.load(40)
    await check(ledger, client, cluster.journal)


@pytest.mark.fault("F27", moment="under load")
async def test_migrations_under_load(cluster: Cluster, client: Client, ledger: Ledger) -> None:
    await cluster.start()
    env = {"ACCEPTED_DATABASE_URL": ledger.url}
    load = asyncio.create_task(client.load(300, {"seconds": 0.02}))
    await asyncio.gather(*(asyncio.to_thread(run, "migrate", env=env) for _ in range(3)))
    await load
    await check(ledger, client, cluster.journal)
    assert {call.status for call in client.calls} == {202}


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.mark.fault("F56", moment="backlog")
async def test_the_ledger_restored_from_a_backup_while_the_broker_is_newer(
    cluster: Cluster,
    client: Client,
    own_server: PostgresServer,
    rabbitmq_node: RabbitMQNode,
    amqp_vhost: VirtualHost,
    tmp_path: Path,
    measured: Measured,
) -> None:
    """References to jobs that the ledger has never heard of are set aside, and stop nobody."""
    url = own_server.create_database("restored")
    run("migrate", env={"ACCEPTED_DATABASE_URL": url})
    ledger = Ledger(url)
    cluster.env["ACCEPTED_DATABASE_URL"] = url
    await cluster.start(workers=1)
    await client.load(30)
    await ledger.drained(30)
    await asyncio.to_thread(own_server.back_up, tmp_path / "backup")
    cluster.workers[0].kill()
    (tmp_path / "gone").mkdir()
    async with Client(cluster.url, tmp_path / "gone") as later:
        await later.load(30)
    published = "SELECT count(*) FROM outbox WHERE published"
    await until(lambda: _equals(ledger, published, 30), 30, "all are published")
    await asyncio.to_thread(own_server.restore, tmp_path / "backup")
    back = time.monotonic()
    cluster.workers[0].start()
    await client.load(20)
    jobs = await check(ledger, client, cluster.journal)
    measured("from the ledger's return to the last job", time.monotonic() - back, 60)
    assert len(jobs) == 50
    aside = rabbitmq_node.queues
    await until(lambda: sum(aside(amqp_vhost.name)[DEAD][:2]) == 30, 30, lambda: str(aside(amqp_vhost.name)))
    assert cluster.workers[0].running


async def _status(cluster: Cluster, path: str, status: int) -> bool:
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=5) as client:
        try:
            return (await client.get(path)).status_code == status
        except httpx.TransportError:
            return False


async def _equals(ledger: Ledger, sql: str, count: int) -> bool:
    return bool(await ledger.value(sql) == count)
