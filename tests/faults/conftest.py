"""What every fault test starts from: a cluster, a client with its journal, the ledger, and a clock that is read out."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.conftest import StartService, VirtualHost
from tests.faults.checker import Ledger
from tests.faults.client import Client
from tests.faults.cluster import Cluster

Measured = Callable[[str, float, float], None]

_TIMES = pytest.StashKey[list[str]]()


@pytest.fixture
def cluster(start_service: StartService, database_url: str, amqp_vhost: VirtualHost, tmp_path: Path) -> Cluster:
    """Not started yet: `await cluster.start()`."""
    return Cluster(start_service, database_url, amqp_vhost.url, tmp_path)


@pytest.fixture
async def client(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Client]:
    async with Client(cluster.url, tmp_path) as client:
        yield client


@pytest.fixture
def ledger(database_url: str) -> Ledger:
    return Ledger(database_url)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """`measured("rescue", seconds, limit)`: fails above the limit, and is printed at the end of the run."""
    times = request.config.stash.setdefault(_TIMES, [])

    def note(what: str, seconds: float, limit: float) -> None:
        times.append(f"{request.node.name}: {what} {seconds:.2f} s (limit {limit:g})")
        assert seconds <= limit, f"{what} took {seconds:.2f} s, more than {limit:g}"

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    times = config.stash.get(_TIMES, [])
    if times:
        terminalreporter.section("recovery times")
        for line in times:
            terminalreporter.line(line)
