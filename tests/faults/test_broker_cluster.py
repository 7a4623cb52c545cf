"""Three RabbitMQ nodes: the leader dies, the majority dies, one is cut off; nothing is lost, and 202 goes on.

A node is cut off by giving it a wrong cookie for the others: Erlang then neither keeps nor makes the connections
between them, while clients still reach it.
"""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.faults import effects
from tests.faults.checker import Ledger, check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.table import Measured
from tests.support.servers.rabbitmq import COOKIE, RabbitMQNode
from tests.support.service.processes import StartService
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

QUEUE = f"accepted.q.{effects.QUEUE}"
FAST = 2.0  # seconds for a 202, on a machine that runs other tests too
APART = 20.0  # seconds
CAREFUL = {"cluster_partition_handling": "pause_minority"}  # what RabbitMQ advises for three nodes
WITHIN = 60.0  # seconds for an election and for what was not confirmed to be published again


@pytest.fixture
def nodes() -> Iterator[list[RabbitMQNode]]:
    first = RabbitMQNode(CAREFUL)
    made = [first, RabbitMQNode(CAREFUL, seed=first), RabbitMQNode(CAREFUL, seed=first)]
    try:
        for node in made:
            node.start()
        for node in made[1:]:
            node.join()
        yield made
    finally:
        for node in reversed(made):
            node.remove()


@pytest.mark.fault("F40", moment="under load")
async def test_the_leader_killed_then_the_majority(
    start_service: StartService,
    cluster: Cluster,
    client: Client,
    ledger: Ledger,
    nodes: list[RabbitMQNode],
    measured: Measured,
) -> None:
    cluster.env["ACCEPTED_BROKER_URL"] = ",".join(node.url for node in nodes)
    await cluster.start(concurrency=4)
    await client.load(20)
    await ledger.drained(60)

    leader = await _leader(nodes)
    load = asyncio.create_task(client.load(150, {"seconds": 0.1}, clients=4))
    await until(lambda: len(client.ids) >= 60, 60, "some accepted")
    await asyncio.to_thread(leader.kill)
    killed = time.monotonic()
    await load
    await ledger.drained(WITHIN)
    measured("from the leader's death to the last job", time.monotonic() - killed, WITHIN)

    await asyncio.to_thread(leader.start)
    await asyncio.gather(*(asyncio.to_thread(node.kill) for node in nodes[1:]))
    await client.load(60, {"seconds": 0.1}, clients=4)
    assert await ledger.count("queued"), "a minority took and delivered messages"
    await asyncio.gather(*(asyncio.to_thread(node.start) for node in nodes[1:]))
    back = time.monotonic()
    await check(ledger, client, cluster.journal, within=90)
    measured("from the majority's return to the last job", time.monotonic() - back, 90)
    assert {call.status for call in client.calls} == {202}
    measured("slowest answer", max(call.seconds for call in client.calls), FAST)


@pytest.mark.fault("F41", moment="under load")
async def test_the_leader_cut_off_from_the_others(
    start_service: StartService,
    cluster: Cluster,
    client: Client,
    ledger: Ledger,
    nodes: list[RabbitMQNode],
    measured: Measured,
) -> None:
    cluster.env["ACCEPTED_BROKER_URL"] = ",".join(node.url for node in nodes)
    await cluster.start(concurrency=4)
    await client.load(20)
    await ledger.drained(60)

    leader = await _leader(nodes)
    others = [node for node in nodes if node is not leader]
    _part(leader, others)
    parted = time.monotonic()
    while time.monotonic() - parted < APART:
        await client.load(8, {"seconds": 0.1}, clients=4)
    assert others[0].name not in leader.eval("nodes()"), "they found each other all the same"
    _join(leader, others)
    healed = time.monotonic()
    await check(ledger, client, cluster.journal, within=WITHIN)
    measured("from healing to the last job", time.monotonic() - healed, WITHIN)
    assert {call.status for call in client.calls} == {202}
    measured("slowest answer", max(call.seconds for call in client.calls), FAST)


def _part(node: RabbitMQNode, others: list[RabbitMQNode]) -> None:
    for other in others:
        node.eval(f"erlang:set_cookie('{other.name}', wrong), erlang:disconnect_node('{other.name}')")


def _join(node: RabbitMQNode, others: list[RabbitMQNode]) -> None:
    for other in others:
        node.eval(f"erlang:set_cookie('{other.name}', '{COOKIE}'), net_adm:ping('{other.name}')")


async def _leader(nodes: list[RabbitMQNode]) -> RabbitMQNode:
    name = await asyncio.to_thread(nodes[0].leader_of, QUEUE)
    return next(node for node in nodes if node.name == name)
