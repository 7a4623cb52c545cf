"""What every fault test starts from: a cluster, a client with its journal, the ledger, and a clock that is read out.

A test names its faults, `@pytest.mark.fault("F07", moment="under load")`; the table of the run is made from that, from
the verdict that the checker left on the client, and from what was `measured`.
"""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.audit import audit
from tests.faults.checker import Ledger
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.service.processes import StartService

_TIMES = pytest.StashKey[list[str]]()
_ROWS = pytest.StashKey[dict[str, table.Row]]()
_PASSED = pytest.StashKey[bool]()


@pytest.fixture
async def cluster(
    request: pytest.FixtureRequest,
    start_service: StartService,
    database_url: str,
    rabbitmq_node: RabbitMQNode,
    amqp_vhost: VirtualHost,
    tmp_path: Path,
) -> AsyncIterator[Cluster]:
    """Not started yet: `await cluster.start()`. What passed its test is audited before it goes."""
    cluster = Cluster(start_service, database_url, amqp_vhost.url, tmp_path)
    yield cluster
    if request.node.stash.get(_PASSED, False):
        await audit(cluster, Ledger(database_url), rabbitmq_node, amqp_vhost)


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
    times = request.node.stash.setdefault(_TIMES, [])

    def note(what: str, seconds: float, limit: float) -> None:
        times.append(f"{what} {seconds:.2f} s (limit {limit:g})")
        assert seconds <= limit, f"{what} took {seconds:.2f} s, more than {limit:g}"

    return note


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(*ids, moment): the faults of the fault list that the test makes")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    rows = item.config.stash.setdefault(_ROWS, {})
    if report.when == "call" and not report.skipped:
        item.stash[_PASSED] = report.passed
        if row := _row(item):
            rows[item.nodeid] = row
    if report.failed and item.nodeid in rows:
        rows[item.nodeid].passed = False
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = list(config.stash.get(_ROWS, {}).values())
    if not rows:
        return
    terminalreporter.section("faults")
    for line in table.lines(rows):
        terminalreporter.line(line)
    if path := os.environ.get("FAULTS_TABLE"):
        table.write(Path(path), rows)


def _row(item: pytest.Item) -> table.Row | None:
    marker = item.get_closest_marker("fault")
    if marker is None:
        return None
    client = getattr(item, "funcargs", {}).get("client")
    verdict = client.verdict if isinstance(client, Client) else None
    name = item.name.replace("[", " (").replace("]", ")")
    return table.Row(marker.args, name, marker.kwargs["moment"], True, verdict, item.stash.get(_TIMES, []))
