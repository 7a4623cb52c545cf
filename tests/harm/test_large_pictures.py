"""Pictures that are small as files and large in memory, several at once, while the worker's children are watched."""

import asyncio
import base64
import io
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psutil
import pytest
from PIL import Image

from accepted.process import resident_bytes
from tests.support.clients.client import Client, Job
from tests.support.servers.children import descendants
from tests.support.servers.postgres import DatabaseServer
from tests.support.service.running_service import Running, serving, types_known

MIB = 2**20
BUDGET = 300 * MIB
BARE = 110 * MIB
"""What a child has before it decodes: the interpreter, the handlers, their libraries."""


@pytest.fixture(scope="module")
async def running(database_server: DatabaseServer, database_template: str) -> AsyncIterator[Running]:
    url = database_server.create_database(f"pictures_{os.getpid()}", template=database_template)
    env = {"ACCEPTED_AUTH": "off", "ACCEPTED_PICTURE_MEMORY": str(BUDGET)}
    async with serving(url, env) as running:
        await types_known(running.client())
        yield running
    database_server.drop_database(f"pictures_{os.getpid()}")


def webp(side: int) -> bytes:
    """Two frames of 16 x 16 on a canvas of `side` x `side`: a few hundred bytes."""
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    written = io.BytesIO()
    frames[0].save(written, "WEBP", save_all=True, append_images=frames[1:], duration=100)
    canvas = (side - 1).to_bytes(3, "little")
    made = bytearray(written.getvalue())
    assert made[12:16] == b"VP8X"
    made[24:30] = canvas + canvas
    return bytes(made)


async def ended(client: Client, source: bytes, count: int) -> list[Job]:
    """Thumbnails of `source`, `count` at once."""
    payload = {"image": base64.b64encode(source).decode(), "width": 64, "height": 64}
    jobs = await asyncio.gather(*(client.submit("image.thumbnail", payload) for _ in range(count)))
    return list(await asyncio.gather(*(client.finished(job["id"]) for job in jobs)))


class Watched:
    """What the children of a worker have taken beside what each has without a picture, at most and all together."""

    most = 0

    def look(self, worker: int) -> None:
        children = [one.pid for one in descendants(worker) if "process_pool" in " ".join(_command_of(one))]
        self.most = max(self.most, sum(max(0, resident_bytes(pid) - BARE) for pid in children))


@contextmanager
def watched(running: Running) -> Iterator[Watched]:
    seen = Watched()

    async def watch() -> None:
        while True:
            seen.look(running.services["worker"].pid)
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.fault("F82", moment="four at once")
async def test_a_picture_that_is_too_large_for_the_worker_is_refused_by_its_header(running: Running) -> None:
    source = webp(8000)
    assert len(source) < 3000
    with watched(running) as seen:
        jobs = await ended(running.client(), source, 4)
    for job in jobs:
        assert (job["status"], job["error"]["class"]) == ("failed", "invalid")
        assert "this worker has 300 MiB for that (ACCEPTED_PICTURE_MEMORY)" in job["error"]["message"]
    assert seen.most < 30 * MIB


@pytest.mark.fault("F82", moment="six at once, of which one fits into the memory")
async def test_pictures_take_turns_for_the_memory_of_their_worker(running: Running) -> None:
    with watched(running) as seen:
        jobs = await ended(running.client(), webp(3500), 6)
    assert {job["status"] for job in jobs} == {"succeeded"}, jobs
    assert {job["attempt"] for job in jobs} == {1}
    assert seen.most > 50 * MIB, "what is watched are those that decode"
    assert seen.most < BUDGET
