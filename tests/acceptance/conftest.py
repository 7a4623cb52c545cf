"""The service as its users have it: real processes, reached over HTTP and the command line alone.

One trio of `accepted api`, `worker` and `scheduler` on PostgreSQL serves most tests; each test submits jobs
of its own, and it ends before other areas are tested. A test that needs other settings starts processes of its own.
"""

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from uuid import uuid4

import pytest

from tests.support.clients.client import Client
from tests.support.servers.addresses import EXTERNAL_BROKER
from tests.support.servers.postgres import DatabaseServer
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.servers.receiver import Receiver
from tests.support.service.processes import BYTECODE
from tests.support.service.running_service import Running, make_keys, running_services, serving, types_known

# Processes that may not keep their bytecode compile all that they import at each start: 4 s instead of 1.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(BYTECODE))

ALL_SCOPES = "jobs:read,jobs:write,jobs:work,admin"


@pytest.fixture(scope="package")
def new_database(database_server: DatabaseServer, database_template: str) -> Iterator[str]:
    """A migrated database for the trio."""
    name = f"acceptance_{uuid4().hex}"
    yield database_server.create_database(name, template=database_template)
    database_server.drop_database(name)


@pytest.fixture
def queue() -> str:
    """The name of a queue that no other test uses."""
    return f"queue-{uuid4().hex[:8]}"


@pytest.fixture(scope="module", params=["postgres", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """`ACCEPTED_BROKER_URL` for either broker, for modules that start services of their own on both."""
    url: str = "postgres" if request.param == "postgres" else request.getfixturevalue("session_broker")
    return url


@pytest.fixture(scope="module")
def own_database(broker_url: str, database_server: DatabaseServer, database_template: str) -> Iterator[str]:
    """A migrated database for one module and harness."""
    name = f"module_{uuid4().hex}"
    yield database_server.create_database(name, template=database_template)
    database_server.drop_database(name)


@pytest.fixture(scope="module")
async def running(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Running]:
    """Processes of one module's own, with the handlers of `misbehaving`, and their types known."""
    name = f"module_{uuid4().hex}"
    env = {"ACCEPTED_AUTH": "off", "ACCEPTED_HANDLERS": "accepted_worker.handlers,tests.support.handlers.misbehaving"}
    async with serving(database_server.create_database(name, template=database_template), env) as running:
        await types_known(running.client())
        yield running
    database_server.drop_database(name)


@pytest.fixture
async def target() -> AsyncIterator[Receiver]:
    """What jobs call, and counts their calls."""
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="package")
async def trio(new_database: str) -> AsyncIterator[Running]:
    """API, worker and scheduler on PostgreSQL alone, keys required."""
    own = "tests.support.handlers.talking,tests.support.handlers.shop"
    handlers = f"accepted_worker.handlers,accepted_worker.handlers.sleep,{own}"
    env = {"ACCEPTED_AUTH": "required", "ACCEPTED_HANDLERS": handlers}
    async with serving(new_database, env) as running:
        yield running


@pytest.fixture(scope="package")
async def keys(trio: Running) -> Mapping[str, str]:
    """An API key by name; each of another tenant, but `reader` and `writer` are of `acme`, `receiver` of `hooks`."""
    wanted = {
        "acme": ("acme", ALL_SCOPES),
        "reader": ("acme", "jobs:read"),
        "writer": ("acme", "jobs:write"),
        "other": ("other", ALL_SCOPES),
        "hooks": ("hooks", ALL_SCOPES),
        "receiver": ("hooks", "webhooks:read"),
    }
    return dict(zip(wanted, await make_keys(trio.env, *wanted.values()), strict=True))


@pytest.fixture(scope="package")
async def client(trio: Running, keys: Mapping[str, str]) -> Client:
    """The tenant of most tests."""
    client = trio.client(keys["acme"])
    await types_known(client)
    return client


@pytest.fixture(scope="package")
async def other(trio: Running, keys: Mapping[str, str]) -> Client:
    """Another tenant."""
    return trio.client(keys["other"])


@pytest.fixture(scope="package")
async def anonymous(trio: Running) -> Client:
    return trio.client()


@pytest.fixture(scope="package")
def session_broker(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a virtual host for the trio on RabbitMQ."""
    if EXTERNAL_BROKER:
        yield EXTERNAL_BROKER
        return
    node: RabbitMQNode = request.getfixturevalue("_broker")
    node.start()
    name = f"acceptance-{uuid4().hex}"
    yield node.add_vhost(name)
    node.start()
    node.delete_vhost(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what the services that outlive it wrote last."""
    report = yield
    if report.when == "call" and report.failed:
        for running in running_services:
            for name, service in running.services.items():
                report.sections.append((f"log of the session's `accepted {name}`", service.log(12)))
    return report
