"""What must hold of the processes after a fault: nothing leaked (I11), nothing in the logs that must not be (I12)."""

import re

from tests.faults.checker import Ledger
from tests.faults.cluster import PASSWORD, WEBHOOK_SECRET, Cluster
from tests.support.servers.addresses import VirtualHost
from tests.support.servers.rabbitmq import RabbitMQNode
from tests.support.waiting import until

CONNECTIONS = 14  # of one process at most: its pool of 10, two to listen on, and two in the course of being replaced
WITHIN = 20.0  # seconds for the last acks and for connections to close

OURS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'accepted'
"""
UNHANDLED = re.compile(
    r"never retrieved|never awaited|Exception in callback|Task was destroyed|Unhandled exception|Fatal Python error"
)


async def audit(cluster: Cluster, ledger: Ledger, node: RabbitMQNode, vhost: VirtualHost) -> None:
    """For a cluster at rest, after its test has passed."""
    _logs_are_clean(cluster)
    running = sum(service.running for service in cluster.services)
    if running:
        await until(lambda: _few_connections(ledger, CONNECTIONS * running), WITHIN, "connections to close")
    if node.running:
        await until(lambda: _none_unacked(node, vhost), WITHIN, lambda: f"0 unacked: {node.queues(vhost.name)}")


def _logs_are_clean(cluster: Cluster) -> None:
    for service in cluster.services:
        log = service.log(1_000_000)
        for secret in (PASSWORD, WEBHOOK_SECRET):
            assert secret not in log, f"a secret in the log of {service.name}"
        unhandled = UNHANDLED.search(log)
        assert unhandled is None, f"{service.name}: {log[max(unhandled.start() - 2000, 0) : unhandled.end() + 2000]}"


async def _few_connections(ledger: Ledger, most: int) -> bool:
    return bool(await ledger.value(OURS) <= most)


def _none_unacked(node: RabbitMQNode, vhost: VirtualHost) -> bool:
    return not any(unacked for _, unacked, _ in node.queues(vhost.name).values())
