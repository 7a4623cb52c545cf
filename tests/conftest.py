"""The servers that tests run against, and a fresh database and virtual host for each test.

`TEST_DATABASE_URL` (an administrator's URL) and `TEST_AMQP_URL` put servers of yours in their place. Tests
that stop, crash or wipe a server are then skipped, and tests share the one virtual host of that broker.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.postgres import PostgresBroker
from accepted.storage.db.engine import create_engine
from tests.support.servers.addresses import EXTERNAL_BROKER, EXTERNAL_DATABASE, VirtualHost
from tests.support.servers.postgres import DatabaseServer, PostgresServer
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.service import fork_server
from tests.support.service.processes import Service, StartService, run

hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

fork_server.use()

ONE_TRY = ("faults", "model")
"""Folders of tests that prove the promise: a job that is lost once in two runs is lost."""


def pytest_unconfigure() -> None:
    fork_server.end()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` gives other tests a second try."""
    for item in items:
        if item.path.relative_to(Path(__file__).parent).parts[0] in ONE_TRY:
            item.add_marker(pytest.mark.flaky(reruns=0))


@pytest.fixture(scope="session")
def database_server() -> Iterator[DatabaseServer]:
    """A PostgreSQL to make databases on: ours, or that of `TEST_DATABASE_URL`."""
    if EXTERNAL_DATABASE:
        yield DatabaseServer(EXTERNAL_DATABASE)
        return
    server = PostgresServer.in_memory()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_server(database_server: DatabaseServer) -> Iterator[PostgresServer]:
    """The same server for tests that stop or crash it; it runs again afterwards."""
    if not isinstance(database_server, PostgresServer):
        pytest.skip("TEST_DATABASE_URL is set: that server is not ours to stop")
    database_server.start()
    yield database_server
    database_server.start()


@pytest.fixture(scope="session")
def database_template(database_server: DatabaseServer) -> Iterator[str]:
    """A database with the schema in it, to be cloned; nobody stays connected to it."""
    name = f"template_{uuid4().hex}"
    url = database_server.create_database(name)
    try:
        run("migrate", env={"ACCEPTED_DATABASE_URL": url})
        yield name
    finally:
        _started(database_server).drop_database(name)


@pytest.fixture
def database_url(database_server: DatabaseServer, database_template: str) -> Iterator[str]:
    """A migrated, empty database for this test alone."""
    name = f"test_{uuid4().hex}"
    yield database_server.create_database(name, template=database_template)
    _started(database_server).drop_database(name)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """That database, spoken to as the service does."""
    made = create_engine(database_url, pool_size=20)
    yield made
    await made.dispose()


@pytest.fixture
def broker(engine: AsyncEngine, database_url: str) -> PostgresBroker:
    """The same ledger as the harness."""
    return PostgresBroker(engine, database_url)


@pytest.fixture
def empty_database_url(database_server: DatabaseServer) -> Iterator[str]:
    """A database without any table, for tests of the migrations themselves."""
    name = f"empty_{uuid4().hex}"
    yield database_server.create_database(name)
    _started(database_server).drop_database(name)


@pytest.fixture(scope="session")
def _broker() -> Iterator[RabbitMQNode]:
    node = RabbitMQNode()
    try:
        node.start()
        yield node
    finally:
        node.remove()


@pytest.fixture
def rabbitmq_node(request: pytest.FixtureRequest) -> Iterator[RabbitMQNode]:
    """Our own broker for tests that look into it, stop or wipe it; it runs, unalarmed, afterwards."""
    if EXTERNAL_BROKER:
        pytest.skip("TEST_AMQP_URL is set: that broker is not ours to stop")
    node: RabbitMQNode = request.getfixturevalue("_broker")
    node.start()
    yield node
    node.start()
    node.set_memory_alarm(False)
    node.set_disk_alarm(False)


@pytest.fixture
def amqp_vhost(rabbitmq_node: RabbitMQNode) -> Iterator[VirtualHost]:
    """A virtual host for this test alone, by name for `rabbitmq_node.queues(name)` and its like."""
    name = f"test-{uuid4().hex}"
    yield VirtualHost(name, rabbitmq_node.add_vhost(name))
    rabbitmq_node.start()
    rabbitmq_node.delete_vhost(name)


@pytest.fixture
def amqp_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh virtual host, or `TEST_AMQP_URL`."""
    return EXTERNAL_BROKER or request.getfixturevalue("amqp_vhost").url


@pytest.fixture
def start_service(request: pytest.FixtureRequest) -> Iterator[StartService]:
    """`start_service("worker", "--queues", "a", env={…})`; all are killed at the end of the test."""
    services: list[Service] = []
    request.node.stash[_SERVICES] = services

    def start(*arguments: str, **options: object) -> Service:
        service = Service(*arguments, **options)  # type: ignore[arg-type]
        services.append(service)
        return service.start()

    yield start
    for service in services:
        service.remove()


_SERVICES = pytest.StashKey[list[Service]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what its services wrote."""
    report = yield
    if report.when == "call" and report.failed:
        for service in item.stash.get(_SERVICES, []):
            report.sections.append((f"log of `accepted {service.name}`", service.log()))
    return report


def _started(server: DatabaseServer) -> DatabaseServer:
    """A test that failed half-way may have left it dead."""
    if isinstance(server, PostgresServer):
        server.start()
    return server
