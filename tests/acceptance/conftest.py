"""The service as its users have it: real processes, reached over HTTP and the command line alone.

One trio of `accepted api`, `worker` and `scheduler` on PostgreSQL serves most tests; each test submits jobs
of its own. A test that needs other settings starts processes of its own.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import EXTERNAL_BROKER
from tests.support.clients.client import Client
from tests.support.servers.ports import free_port
from tests.support.servers.postgres import DatabaseServer
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.servers.receiver import Receiver
from tests.support.service.processes import ACCEPTED, Service, answers
from tests.support.service.processes import _clean_environment as clean_environment
from tests.support.waiting import until

# Processes that may not keep their bytecode compile all that they import at each start: 4 s instead of 1.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / f"accepted-pycache-{os.getuid()}"))

BOOT_WITHIN = 90.0  # seconds: several processes start at once on two noisy cores
ALL_SCOPES = "jobs:read,jobs:write,jobs:work,admin"


@dataclass(frozen=True)
class Running:
    """A service that answers; `env` is what `accepted …` needs to reach the same ledger and the API."""

    url: str
    env: Mapping[str, str]
    services: Mapping[str, Service]

    def client(self, key: str = "") -> Client:
        return Client(self.url, key)


_running: list[Running] = []


@asynccontextmanager
async def serving(
    database_url: str, env: Mapping[str, str], *, dev: bool = False, more: Sequence[str] = ()
) -> AsyncIterator[Running]:
    """The three processes, or `accepted dev` with `more` options, with the API ready."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    ledger = {"ACCEPTED_DATABASE_URL": database_url} if database_url else {}
    env = {**ledger, "ACCEPTED_EGRESS_ALLOW": "127.0.0.0/8", "ACCEPTED_URL": url, **env}
    commands = {
        "dev": ["dev", "--port", str(port), "--concurrency", "20", *more],
        "api": ["api", "--port", str(port)],
        "worker": ["worker", "--concurrency", "20"],
        "scheduler": ["scheduler"],
    }
    wanted = ["dev"] if dev else ["api", "worker", "scheduler"]
    services = {name: Service(*commands[name], env=env) for name in wanted}
    running = Running(url, env, services)
    _running.append(running)
    try:
        for service in services.values():
            service.start()
        await services[wanted[0]].wait_ready(answers(f"{url}/readyz"), BOOT_WITHIN)
        yield running
    finally:
        _running.remove(running)
        for service in services.values():
            service.remove()


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


async def accepted(*arguments: str, env: Mapping[str, str], cwd: str | None = None, stdin: str = "") -> Done:
    """`accepted …` run to its end, while others may run too: each takes seconds, most of them to start."""
    return await run_to_end([str(ACCEPTED), *arguments], env, cwd, stdin)


async def run_to_end(command: list[str], env: Mapping[str, str], cwd: str | None = None, stdin: str = "") -> Done:
    call = partial(
        subprocess.run,
        command,
        env=clean_environment() | dict(env),
        cwd=cwd or tempfile.gettempdir(),
        capture_output=True,
        text=True,
        timeout=80,
        input=stdin,
    )
    done = await asyncio.to_thread(call)
    return Done(done.returncode, done.stdout, done.stderr)


ALL_OF = """
import json, sys
from app.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
"""


async def make_keys(env: Mapping[str, str], *wanted: tuple[str, str]) -> list[str]:
    """A key by `accepted keys create` for each (tenant, scopes); in one process, for starting takes seconds."""
    commands = [
        ["keys", "create", "--tenant", tenant, "--name", "tests", "--scopes", scopes] for tenant, scopes in wanted
    ]
    done = await run_to_end([sys.executable, "-c", ALL_OF, json.dumps(commands)], env)
    assert done.code == 0, done
    return done.out.split()


async def types_known(client: Client) -> None:
    """Wait until a worker has registered its types: before that, every submission is refused."""

    async def known() -> bool:
        return any(each["name"] == "noop" for each in (await client.get("/job-types")).json()["items"])

    await until(known, BOOT_WITHIN, "the worker's types", interval=0.1)


@pytest.fixture(scope="session")
def new_database(database_server: DatabaseServer, database_template: str) -> Iterator[str]:
    """A migrated database for the trio that lives as long as the session."""
    name = f"acceptance_{uuid4().hex}"
    yield database_server.create_database(name, template=database_template)
    database_server.drop_database(name)


@pytest.fixture
def queue() -> str:
    """The name of a queue that no other test uses."""
    return f"queue-{uuid4().hex[:8]}"


@pytest.fixture(scope="module", params=["postgres", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """`ACCEPTED_BROKER_URL` for either road, for modules that start services of their own on both."""
    url: str = "postgres" if request.param == "postgres" else request.getfixturevalue("session_broker")
    return url


@pytest.fixture(scope="module")
def own_database(broker_url: str, database_server: DatabaseServer, database_template: str) -> Iterator[str]:
    """A migrated database for one module and road."""
    name = f"module_{uuid4().hex}"
    yield database_server.create_database(name, template=database_template)
    database_server.drop_database(name)


@pytest.fixture(scope="module")
async def running(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Running]:
    """Processes of one module's own, with the handlers of `misbehaving`, and their types known."""
    name = f"module_{uuid4().hex}"
    env = {"ACCEPTED_AUTH": "off", "ACCEPTED_HANDLERS": "workers.handlers,tests.support.handlers.misbehaving"}
    async with serving(database_server.create_database(name, template=database_template), env) as running:
        await types_known(running.client())
        yield running
    database_server.drop_database(name)


@pytest.fixture
async def target() -> AsyncIterator[Receiver]:
    """What jobs call, and counts their calls."""
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
async def trio(new_database: str) -> AsyncIterator[Running]:
    """API, worker and scheduler on PostgreSQL alone, keys required."""
    async with serving(new_database, {"ACCEPTED_AUTH": "required"}) as running:
        yield running


@pytest.fixture(scope="session")
async def keys(trio: Running) -> Mapping[str, str]:
    """An API key by name; each of another tenant, but for `reader` and `writer`, which are of `acme`."""
    wanted = {
        "acme": ("acme", ALL_SCOPES),
        "reader": ("acme", "jobs:read"),
        "writer": ("acme", "jobs:write"),
        "other": ("other", ALL_SCOPES),
        "hooks": ("hooks", ALL_SCOPES),
    }
    return dict(zip(wanted, await make_keys(trio.env, *wanted.values()), strict=True))


@pytest.fixture(scope="session")
async def client(trio: Running, keys: Mapping[str, str]) -> Client:
    """The tenant of most tests."""
    client = trio.client(keys["acme"])
    await types_known(client)
    return client


@pytest.fixture(scope="session")
async def other(trio: Running, keys: Mapping[str, str]) -> Client:
    """Another tenant."""
    return trio.client(keys["other"])


@pytest.fixture(scope="session")
async def anonymous(trio: Running) -> Client:
    return trio.client()


@pytest.fixture(scope="session")
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
        for running in _running:
            for name, service in running.services.items():
                report.sections.append((f"log of the session's `accepted {name}`", service.log(12)))
    return report
