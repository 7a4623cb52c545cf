"""Forks of a child process: they obey signals, and cannot use the pipe to the worker."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from accepted_worker.attempt.failures import RaisedInChild
from accepted_worker.process_pool import forks
from accepted_worker.process_pool.pipe import NO_TOOLS_IN_A_FORK
from accepted_worker.process_pool.pool import ProcessPool
from tests.support.service.process_pool import SETUP, run

IN_TIME = 5.0  # seconds; a fork that ignores signals would run for a minute


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[ProcessPool]:
    made = ProcessPool(SETUP)
    yield made
    await made.aclose()


async def test_forks_end_when_the_handler_fails(pool: ProcessPool) -> None:
    await run(pool, "pid")
    async with asyncio.timeout(IN_TIME):
        with pytest.raises(RaisedInChild, match="bad data"):
            await run(pool, "fail beside forks")


async def test_a_fork_obeys_a_signal_from_its_first_moment(pool: ProcessPool) -> None:
    await run(pool, "pid")
    async with asyncio.timeout(IN_TIME):
        assert [await run(pool, "stop a fork") for _ in range(20)] == [-signal.SIGTERM] * 20


async def test_an_exception_in_a_fork_is_not_the_handlers(pool: ProcessPool) -> None:
    """And the result of the handler, which comes later, is not taken for that of the next attempt."""
    pid = (await run(pool, "pid"))["pid"]
    results = [await run(pool, "raise in a fork", 0.5), await run(pool, "pid")]
    assert [result["pid"] for result in results] == [pid, pid]
    assert "rounds" in results[0]
    assert "nice" in results[1]


async def test_a_fork_has_no_tools(pool: ProcessPool) -> None:
    """`run` would return its progress."""
    async with asyncio.timeout(IN_TIME):
        assert await run(pool, "speak in a fork") == [None, NO_TOOLS_IN_A_FORK, NO_TOOLS_IN_A_FORK]


async def test_a_fork_of_the_worker_does_not_keep_its_children_alive() -> None:
    """A child lives as long as its lifeline is open, so only the worker may have it open."""
    forks.isolate_forks()
    pool = ProcessPool(SETUP)
    async with pool.child() as child:
        assert child._lifeline is not None
        if (fork := os.fork()) == 0:
            try:
                os.fstat(child._lifeline)
            except OSError:
                os._exit(0)
            os._exit(1)
        _, status = await asyncio.to_thread(os.waitpid, fork, 0)
        assert status == 0
        assert child.alive
    await pool.aclose()
