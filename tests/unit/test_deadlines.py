"""One timer for many waits."""

import asyncio

import pytest

from accepted.deadlines import Deadlines


class Late(Exception):
    pass


async def test_each_wait_ends_in_time_and_not_before() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(0.1, Late)
    futures = []
    started = []
    for _ in range(3):
        futures.append(loop.create_future())
        started.append(loop.time())
        deadlines.add(futures[-1])
        await asyncio.sleep(0.04)
    for future, start in zip(futures, started, strict=True):
        with pytest.raises(Late):
            await future
        assert loop.time() - start >= 0.1


async def test_what_is_done_is_left_alone() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(0.02, Late)
    done, late = loop.create_future(), loop.create_future()
    deadlines.add(done)
    deadlines.add(late)
    done.set_result(1)
    with pytest.raises(Late):
        await late
    assert await done == 1


async def test_what_is_done_is_not_kept() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(60, Late)
    for _ in range(100):
        future = loop.create_future()
        deadlines.add(future)
        future.set_result(None)
    assert len(deadlines._waiting) == 1
