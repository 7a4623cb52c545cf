"""What the processes log while a server is away: a line of each kind, JSON all of it, and the repeated ones counted."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from accepted.logs import REPEAT_SECONDS
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until

AWAY = REPEAT_SECONDS + 2  # seconds: long enough for repeated lines to be told
ABOUT_JOBS = {"attempt", "request"}


@pytest.mark.fault("F66", moment="under load")
@pytest.mark.slow
async def test_a_stop_of_the_broker_in_the_log(
    cluster: Cluster, client: Client, ledger: Ledger, rabbitmq_node: RabbitMQNode
) -> None:
    await cluster.start(workers=1, concurrency=4)
    before = asyncio.create_task(client.load(40, {"seconds": 0.1}))
    await until(lambda: len(client.ids) >= 10, 60, "some are accepted")
    await asyncio.to_thread(rabbitmq_node.stop)
    await before
    await _load_while_away(client)
    await asyncio.to_thread(rabbitmq_node.start)
    await check(ledger, client, cluster.journal)
    _check_logs(cluster)
    assert {"consumer_lost"} <= {line["event"] for line in _lines(cluster)}


@pytest.mark.slow
@pytest.mark.fault("F66", moment="under load")
async def test_a_stop_of_the_ledger_in_the_log(
    cluster: Cluster, client: Client, ledger: Ledger, postgres_server: PostgresServer
) -> None:
    await cluster.start(workers=1, concurrency=4)
    load = asyncio.create_task(client.load(60, {"seconds": 0.1}))
    await until(lambda: len(client.ids) >= 20, 60, "some are accepted")
    await asyncio.to_thread(postgres_server.stop)
    await asyncio.sleep(AWAY)  # how long the ledger is away
    await asyncio.to_thread(postgres_server.start)
    await load
    await check(ledger, client, cluster.journal)
    _check_logs(cluster)
    assert {"loop_failed"} <= {line["event"] for line in _lines(cluster)}


async def _load_while_away(client: Client) -> None:
    end = asyncio.get_running_loop().time() + AWAY
    while asyncio.get_running_loop().time() < end:
        await client.load(2, clients=2)
        await asyncio.sleep(0.1)  # the pace of this load


def _check_logs(cluster: Cluster) -> None:
    """Each kind of line comes at most as often as its repetitions are told."""
    lines = [line for line in _lines(cluster) if line["event"] not in ABOUT_JOBS]
    assert all(line["level"] in ("info", "warning", "error") for line in lines)
    assert not any("CanaryPassword" in json.dumps(line) for line in lines)
    firsts = Counter(_kind(line) for line in lines if "repeated" not in line)
    for kind, count in firsts.items():
        assert count <= 3, f"{count} lines of {kind}"


def _lines(cluster: Cluster) -> list[dict[str, Any]]:
    """Every line of every process: each must be an object."""
    return [
        json.loads(line) | {"of": service.name}
        for service in cluster.services
        for line in service.log(100_000).splitlines()
    ]


def _kind(line: dict[str, Any]) -> tuple[object, ...]:
    return tuple(str(line.get(name)) for name in ("of", "event", "logger", "message", "error", "loop", "channel"))
