"""What every fault test starts from: a cluster, a client with its journal, the ledger, and a clock that is read out.

A test names its faults, `@pytest.mark.fault("F07", moment="under load")`; the table of the run is made from that, from
the verdict that the checker left on the client, and from what was `measured`.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.audit import audit
from tests.faults.checker import Ledger
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.reporting import (
    PASSED,
    measured,
    pytest_configure,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.service.processes import StartService

__all__ = ["measured", "pytest_configure", "pytest_runtest_makereport", "pytest_terminal_summary"]


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
    if request.node.stash.get(PASSED, False):
        await audit(cluster, Ledger(database_url), rabbitmq_node, amqp_vhost)


@pytest.fixture
async def client(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Client]:
    async with Client(cluster.url, tmp_path) as client:
        yield client


@pytest.fixture
def ledger(database_url: str) -> Ledger:
    return Ledger(database_url)
