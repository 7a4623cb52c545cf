"""The limits of a queue hold for those who lease from it over HTTP."""

import pytest

from tests.support.clients.client import Client
from tests.support.clients.lease_client import lease, one_lease, register, say, service
from tests.support.service.live_api import api


async def test_what_was_published_when_a_limit_came_is_not_leased(database_url: str) -> None:
    """No limiter runs here that would put it on hold."""
    async with api(database_url) as one:
        client = await one.client()
        await register(client)
        await client.submit("node.echo")
        assert (await client.http.patch("/queues/node", json={"max_running": 1})).status_code == 200
        assert await lease(client, wait=0) == []


@pytest.mark.parametrize("kind", ["postgres", "rabbitmq"])
async def test_limits_hold_for_leases_too(request: pytest.FixtureRequest, database_url: str, kind: str) -> None:
    url = "postgres" if kind == "postgres" else request.getfixturevalue("amqp_url")
    async with service(database_url, url, lease_ttl=30) as one:
        await _limited(await one.client())


async def _limited(client: Client) -> None:
    await register(client)
    for limits in ({"paused": True}, {"max_running": 2}):
        assert (await client.http.patch("/queues/node", json=limits)).status_code == 200
    jobs = [(await client.submit("node.echo"))["id"] for _ in range(3)]
    assert await lease(client, most=10, wait=1.5) == [], "paused"
    assert (await client.http.patch("/queues/node", json={"paused": False})).status_code == 200
    held = await lease(client, most=10)
    while len(held) < 2:
        held += await lease(client, most=10)
    assert [item["job"]["id"] for item in held] == jobs[:2]
    assert await lease(client, most=10, wait=1) == [], "no more than two at once"
    await say(client, held[0], "complete")
    assert (await one_lease(client))["job"]["id"] == jobs[2]
