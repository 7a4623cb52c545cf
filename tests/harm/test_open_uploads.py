"""Batches in NDJSON that are sent and not finished, and the disk on which they wait."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import httpx
import psutil
import pytest

from tests.support.clients.client import Client, check_problem
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.running_service import Running, make_keys, serving, types_known
from tests.support.waiting import until

MIB = 2**20
SPACE = 8 * MIB
NDJSON = {"content-type": "application/x-ndjson"}
STALLED = 45.0
"""Seconds until a body that stopped has been dropped: the deadline of a line is 30."""


@dataclass(frozen=True)
class Tenants:
    """Two of them, at one API process."""

    api: int
    first: Client
    second: Client


@pytest.fixture(scope="module")
async def running(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Running]:
    name = f"uploads_{os.getpid()}"
    url = database_server.create_database(name, template=database_template)
    async with serving(url, {"ACCEPTED_UPLOAD_SPACE": str(SPACE)}) as running:
        yield running
    database_server.drop_database(name)


@pytest.fixture(scope="module")
async def tenants(running: Running) -> Tenants:
    scopes = "jobs:read,jobs:write"
    first, second = [running.client(key) for key in await make_keys(running.env, ("a", scopes), ("b", scopes))]
    await types_known(first)
    return Tenants(running.services["api"].pid, first, second)


def lines(size: int) -> bytes:
    """Jobs that together take about so many bytes."""
    line = json.dumps({"type": "noop", "queue": "u", "delay": 9999, "payload": {"x": "y" * 20_000}}).encode() + b"\n"
    return line * (size // len(line))


async def send(client: Client, size: int) -> httpx.Response:
    return await client.http.post("/batches", content=lines(size), headers=NDJSON)


@asynccontextmanager
async def opened(client: Client, size: int) -> AsyncIterator["asyncio.Task[httpx.Response]"]:
    """An upload that has sent `size` bytes and stays open; leaving the block hangs up."""
    sent = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield lines(size)
        sent.set()
        await asyncio.Event().wait()

    upload = asyncio.ensure_future(client.http.post("/batches", content=pieces(), headers=NDJSON))
    await asyncio.wait({upload, waiting := asyncio.ensure_future(sent.wait())}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield upload
    finally:
        for task in (upload, waiting):
            task.cancel()
        await asyncio.wait({upload, waiting})


async def filled(client: Client, stack: AsyncExitStack) -> httpx.Response:
    """Open uploads until one is refused; the refusal."""
    for _ in range(6):
        await stack.enter_async_context(opened(client, MIB))
        answer = await send(client, 2 * MIB)
        if answer.status_code != 202:
            return answer
    raise AssertionError("the tenant's uploads were never too many")


@contextmanager
def file_size_limit(pid: int, size: int) -> Iterator[None]:
    """No file of the process grows past `size`, as on a disk that is full."""
    process = psutil.Process(pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)


@pytest.mark.fault("F89", moment="open uploads of one tenant until it is refused")
async def test_open_uploads_of_one_tenant_leave_room_to_others(tenants: Tenants) -> None:
    async with AsyncExitStack() as stack:
        refused = await filled(tenants.first, stack)
        assert check_problem(refused, 429)["type"] == "/problems/uploads-full"
        assert int(refused.headers["retry-after"]) > 0
        assert (await send(tenants.first, 100_000)).status_code == 202, "a small batch needs no disk"
        assert (await send(tenants.second, MIB)).status_code == 202

    async def free_again() -> bool:
        return (await send(tenants.first, 3 * MIB)).status_code == 202

    await until(free_again, 20, "the space of uploads whose client has hung up")


@pytest.mark.slow
@pytest.mark.fault("F89", moment="uploads that stop, on open connections")
async def test_uploads_that_stop_give_their_space_back(tenants: Tenants) -> None:
    async with AsyncExitStack() as stack:
        await filled(tenants.first, stack)

        async def free_again() -> bool:
            return (await send(tenants.first, 3 * MIB)).status_code == 202

        await until(free_again, STALLED, "the space of uploads that stopped", interval=1)


@pytest.mark.fault("F89", moment="the disk for uploads is full")
async def test_a_full_disk_for_uploads_is_not_told_as_a_database_that_is_away(tenants: Tenants) -> None:
    with file_size_limit(tenants.api, 300_000):
        refused = await send(tenants.second, MIB)
        problem = check_problem(refused, 503)
        assert problem["type"] == "/problems/no-room"
        assert "database" not in problem["detail"]
        assert int(refused.headers["retry-after"]) > 0
        assert (await send(tenants.second, 100_000)).status_code == 202
    assert (await send(tenants.second, MIB)).status_code == 202


@pytest.mark.fault("F89", moment="a batch that can never fit")
async def test_a_batch_larger_than_half_the_space_is_too_large(tenants: Tenants) -> None:
    refused = await send(tenants.second, SPACE // 2 + 100_000)
    assert str(SPACE // 2) in check_problem(refused, 413)["detail"]
