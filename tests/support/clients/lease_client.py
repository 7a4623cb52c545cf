"""The service with its scheduler in the test's own process, and a worker that speaks HTTP alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from accepted.broker import create_broker
from accepted_worker.scheduler import base, loops
from tests.support.clients.client import Client
from tests.support.ledger.poll_connection import PollConnection
from tests.support.service.live_api import Api, api

LEASE_TTL = 2.0  # seconds
QUICK = {"schedule": [0.1], "jitter": 0}

Item = dict[str, Any]


@asynccontextmanager
async def service(database_url: str, broker_url: str = "postgres", lease_ttl: float = LEASE_TTL) -> AsyncIterator[Api]:
    """An API with short leases, and every loop of a scheduler beside it."""
    async with api(database_url, broker_url, lease_ttl=lease_ttl) as one:
        broker = create_broker(one.state.settings, one.state.engine)
        engine = one.state.engine
        running = asyncio.create_task(base.run(loops(engine, broker, one.state.settings, PollConnection(engine))))
        try:
            yield one
        finally:
            running.cancel()
            await asyncio.wait({running})
            await broker.close()


async def register(client: Client, name: str = "node.echo", **fields: Any) -> httpx.Response:
    return await client.http.put(f"/job-types/{name}", json={"queue": "node", "retry": QUICK, **fields})


async def ask(client: Client, queue: str = "node", **fields: Any) -> httpx.Response:
    return await client.http.post(f"/queues/{queue}/lease", json=fields)


async def lease(client: Client, queue: str = "node", *, most: int = 1, wait: float = 20, **fields: Any) -> list[Item]:
    answer = await ask(client, queue, max=most, wait=wait, **fields)
    assert answer.status_code == 200, answer.text
    items: list[Item] = answer.json()["items"]
    return items


async def one_lease(client: Client, queue: str = "node", **fields: Any) -> Item:
    (item,) = await lease(client, queue, **fields)
    return item


async def say(client: Client, item: Item, verb: str, **body: Any) -> httpx.Response:
    return await client.http.post(f"/leases/{item['lease']}/{verb}", json=body)
