"""Progress from a child process: a few messages a second, and always the last one."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from accepted_worker.process_pool.pool import ProcessPool
from accepted_worker.process_pool.tool_client import PAUSE
from tests.support.service.process_pool import SETUP, a_job
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[ProcessPool]:
    made = ProcessPool(SETUP)
    yield made
    await made.aclose()


async def run(pool: ProcessPool, do: str, arg: Any, heard: list[Any]) -> Any:
    async with pool.child() as child:
        return json.loads(bytes(await child.run(a_job(do, arg), lambda said, _: heard.append(json.loads(said.value)))))


async def test_of_a_loop_that_reports_all_the_time_some_messages_are_sent(pool: ProcessPool) -> None:
    heard: list[Any] = []
    said = await run(pool, "report all the time", 1.0, heard)
    assert said > 1000
    assert 2 < len(heard) <= 1.0 / PAUSE + 2
    assert heard[-1]["message"] == str(said), "the last message comes before the result"


async def test_the_last_progress_before_a_long_computation_is_sent(pool: ProcessPool, tmp_path: Path) -> None:
    heard: list[Any] = []
    go = tmp_path / "go"
    running = asyncio.create_task(run(pool, "report and compute", str(go), heard))
    await until(lambda: len(heard) == 2, 10, "both to be sent while it computes")
    assert not running.done()
    go.touch()
    await running
    assert [one["percent"] for one in heard] == [1, 2]


async def test_progress_does_not_end_the_child(pool: ProcessPool) -> None:
    """Its timer does not count as left running."""
    async with pool.child() as child:
        await child.run(a_job("report", [1, 2, 3]), lambda said, _: None)
        first = child.pid
    async with pool.child() as child:
        assert child.pid == first
