"""Jobs that do nothing but hold a slot: a worker that serves tenants has no built-in type for them."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.support.clients.client import Client, check_problem
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.processes import Service
from tests.support.service.running_service import Running, make_keys, serving, types_known
from tests.support.waiting import until

pytestmark = pytest.mark.fault("F91", moment="a tenant submits `sleep`")

NAMED = {"ACCEPTED_HANDLERS": "accepted_worker.handlers,accepted_worker.handlers.sleep"}
A_DAY = {"type": "sleep", "payload": {"seconds": 86_400}}


@pytest.fixture
async def running(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Running]:
    name = f"idle_{uuid4().hex}"
    async with serving(database_server.create_database(name, template=database_template), {}) as running:
        yield running
    database_server.drop_database(name)


@pytest.fixture
async def client(running: Running) -> Client:
    (key,) = await make_keys(running.env, ("a", "jobs:read,jobs:write"))
    client = running.client(key)
    await types_known(client)
    return client


async def test_sleep_is_served_only_where_it_is_named(running: Running, client: Client) -> None:
    refused = await client.post(A_DAY)
    check_problem(refused, 422, "/type", "no worker has registered this type")
    assert (await client.finish("noop"))["status"] == "succeeded"
    trying_out = Service("worker", env={**running.env, **NAMED}).start()
    try:
        await until(lambda: trying_out.running and "worker_ready" in trying_out.log(), 60, trying_out.log)
        slept = await client.finish("sleep", {"seconds": 0})
        assert (slept["status"], slept["result"]) == ("succeeded", {"slept": 0})
    finally:
        trying_out.remove()


async def test_sleep_is_there_where_nobody_needs_a_key(database_url: str) -> None:
    async with serving(database_url, {}, dev=True) as running:
        client = running.client()
        await types_known(client)
        assert (await client.finish("sleep", {"seconds": 0}))["status"] == "succeeded"
