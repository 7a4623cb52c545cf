"""A queue that Python workers and HTTP workers share, once one of its jobs has a priority: nobody is starved there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.clients.client import Client
from tests.support.clients.lease_client import Item, lease, register, say
from tests.support.ledger.sql import rows
from tests.support.servers.addresses import BROKERS
from tests.support.service.running_service import serving, types_known
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(240)

LEASE_TTL = 1.0  # seconds
APART = LEASE_TTL + 6.0
"""Seconds between polls: longer than the ledger knows of a request, and than a row waits for one that has gone."""

JOBS = 4


@asynccontextmanager
async def shared_queue(request: pytest.FixtureRequest, database_url: str, kind: str) -> AsyncIterator[Client]:
    """The queue `mixed`, limited by one `noop`, where jobs wait that no Python worker serves."""
    broker = "postgres" if kind == "postgres" else request.getfixturevalue("amqp_url")
    env = {"ACCEPTED_AUTH": "off", "ACCEPTED_BROKER_URL": broker, "ACCEPTED_LEASE_TTL": str(LEASE_TTL)}
    async with serving(database_url, env) as running:
        client = running.client()
        await types_known(client)
        await register(client, "external", queue="elsewhere")
        await client.finish("noop", queue="mixed", priority=9)
        for _ in range(JOBS):
            await client.submit("external", queue="mixed")
        yield client


@pytest.mark.fault("F76", moment="a job with a priority was on the queue; an HTTP worker polls now and then")
@pytest.mark.parametrize("kind", BROKERS)
async def test_who_polls_now_and_then_gets_jobs(request: pytest.FixtureRequest, database_url: str, kind: str) -> None:
    async with shared_queue(request, database_url, kind) as client:
        found: list[Item] = []
        for _ in range(3):
            found += await lease(client, "mixed", wait=0)
            await asyncio.sleep(APART)
        assert len(found) >= 2


@pytest.mark.fault("F76", moment="jobs that nobody serves wait in front of others")
@pytest.mark.parametrize("kind", BROKERS)
async def test_those_behind_them_run(request: pytest.FixtureRequest, database_url: str, kind: str) -> None:
    async with shared_queue(request, database_url, kind) as client:
        assert (await client.http.patch("/queues/mixed", json={"max_running": 1})).status_code == 200
        for _ in range(3):
            await client.submit("external", queue="mixed", priority=9)
        for _ in range(3):
            assert (await client.finish("noop", queue="mixed"))["attempt"] == 1
        (item,) = await lease(client, "mixed")
        assert item["job"]["priority"] == 9
        assert (await say(client, item, "complete", result={})).status_code == 200


@pytest.mark.slow
@pytest.mark.fault("F76", moment="the last job with a priority ended a minute ago")
async def test_the_queue_is_plain_again(engine: AsyncEngine, database_url: str) -> None:
    """Jobs of a plain queue need no scheduler."""

    async def limited() -> bool:
        return bool(await rows(engine, "SELECT 1 FROM queues WHERE name = 'q' AND limited"))

    async def plain() -> bool:
        return not await limited()

    async with serving(database_url, {"ACCEPTED_AUTH": "off"}) as running:
        client = running.client()
        await types_known(client)
        await client.finish("noop", queue="q", priority=9)
        assert await limited()
        await until(plain, 150, "the queue to be plain", interval=1.0)
        running.services["scheduler"].kill()
        assert (await client.finish("noop", queue="q"))["status"] == "succeeded"
