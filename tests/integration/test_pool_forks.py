"""Processes that a handler in a process starts: they end when they are told to, and speak for nobody."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from tests.integration.test_pool import SETUP, run
from workers.pool import ProcessPool, RaisedInChild

IN_TIME = 5.0  # seconds; against the minute that a fork which heeds nothing goes on


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


async def test_a_fork_heeds_a_signal_from_its_first_moment(pool: ProcessPool) -> None:
    await run(pool, "pid")
    async with asyncio.timeout(IN_TIME):
        assert [await run(pool, "stop a fork") for _ in range(20)] == [-signal.SIGTERM] * 20
