"""What an attempt leaves running in a child process ends with the child. Nothing runs beside the next attempt."""

import asyncio
from collections.abc import AsyncIterator

import psutil
import pytest

from accepted_worker.process_pool.pool import ProcessPool
from tests.support.service.process_pool import SETUP, run
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[ProcessPool]:
    made = ProcessPool(SETUP)
    yield made
    await made.aclose()


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("what", ["program", "orphan", "fork", "thread", "program of its own session"])
async def test_anything_left_running_ends_with_its_process(pool: ProcessPool, what: str) -> None:
    """Except a program with a session of its own: its child is replaced, and the program ends by itself."""
    first = await run(pool, "leave", what)
    assert (await run(pool, "pid"))["pid"] != first["pid"]
    await until(lambda: not runs(first["pid"]) and not runs(first["left"]), 5, "it to be gone")


async def test_a_child_with_nothing_left_running_is_kept(pool: ProcessPool) -> None:
    first = await run(pool, "leave", "nothing")
    assert (await run(pool, "pid"))["pid"] == first["pid"]


async def test_an_abandoned_thread_of_an_async_handler_delays_nothing(pool: ProcessPool) -> None:
    await run(pool, "pid")
    async with asyncio.timeout(5):
        first = await run(pool, "give up", 37, type="deed.async")
    assert first["went"] == "on"
    assert (await run(pool, "pid"))["pid"] != first["pid"]


async def test_idle_threads_of_an_event_loop_do_not_end_the_child(pool: ProcessPool) -> None:
    first = await run(pool, "pid", type="deed.async")
    assert (await run(pool, "pid"))["pid"] == first["pid"]
