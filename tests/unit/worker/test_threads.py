"""Calls of an attempt's tools: from its event loop, from threads, from other loops, and after its end."""

import asyncio
import threading

import pytest

from accepted.domain.failures import LeaseLost
from accepted_worker.attempt.progress import LatestProgress
from accepted_worker.attempt.threads import LoopBridge
from tests.support.waiting import until


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


async def test_a_call_is_awaited_on_the_loop_and_blocks_in_a_thread() -> None:
    bridge = LoopBridge()
    assert await bridge.call(answer()) == 42
    assert await asyncio.to_thread(lambda: bridge.call(answer())) == 42


async def test_a_call_is_awaited_on_an_event_loop_of_the_handlers_own() -> None:
    bridge = LoopBridge()

    async def elsewhere() -> int:
        return int(await bridge.call(answer()))

    assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) == 42


async def test_an_error_is_raised_where_the_call_was_made() -> None:
    bridge = LoopBridge()

    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await asyncio.to_thread(lambda: bridge.call(fail()))


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, StopIteration])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["in a thread", "on a loop of its own"])
async def test_any_exception_reaches_the_caller(raised: type[BaseException], elsewhere: bool) -> None:
    bridge = LoopBridge()

    async def leave() -> None:
        raise raised

    async def on_its_own_loop() -> None:
        await bridge.call(leave())

    def call() -> BaseException:
        try:
            asyncio.run(on_its_own_loop()) if elsewhere else bridge.call(leave())
        except BaseException as error:
            return error
        raise AssertionError

    error = await asyncio.to_thread(call)
    if raised is StopIteration:  # Python turns it into this in a coroutine
        raised = RuntimeError
    assert type(error) is raised


async def test_nothing_is_called_after_the_end() -> None:
    bridge, heard = LoopBridge(), []
    bridge.call_soon(heard.append, "in time")
    bridge.end()
    bridge.call_soon(heard.append, "late")
    await asyncio.to_thread(bridge.call_soon, heard.append, "late, from a thread")
    await asyncio.sleep(0)
    assert heard == ["in time"]
    with pytest.raises(LeaseLost):
        bridge.call(answer())
    with pytest.raises(LeaseLost):
        await asyncio.to_thread(lambda: bridge.call(answer()))


async def test_of_many_values_only_the_last_is_passed_on() -> None:
    """One call for each would keep the event loop from other work."""
    heard: list[str] = []
    latest = LatestProgress(LoopBridge(), heard.append)

    def say() -> None:
        for number in range(1000):
            latest(str(number))

    thread = threading.Thread(target=say)
    thread.start()
    thread.join()  # the event loop is blocked meanwhile
    await asyncio.sleep(0)
    assert heard == ["999"]
    latest("at once, on the loop")
    await asyncio.to_thread(latest, "later")
    await asyncio.sleep(0)
    assert heard == ["999", "at once, on the loop", "later"]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in a thread", "on a loop of its own"])
async def test_the_end_cancels_the_calls_that_threads_wait_for(elsewhere: bool) -> None:
    bridge, begun, was_cancelled = LoopBridge(), threading.Event(), asyncio.Event()

    async def never() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    async def on_its_own_loop() -> None:
        await bridge.call(never())

    def call() -> None:
        asyncio.run(on_its_own_loop()) if elsewhere else bridge.call(never())

    waiting = asyncio.create_task(asyncio.to_thread(call))
    await until(begun.is_set, 10, "the call to start")
    bridge.end()
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(waiting, 20)
    await until(was_cancelled.is_set, 5, "the call to be cancelled")


async def test_a_call_that_times_out_on_another_loop_is_cancelled() -> None:
    bridge, was_cancelled = LoopBridge(), asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    async def on_its_own_loop() -> None:
        async with asyncio.timeout(0.2):
            await bridge.call(never())

    with pytest.raises(TimeoutError):
        await asyncio.to_thread(lambda: asyncio.run(on_its_own_loop()))
    await until(was_cancelled.is_set, 5, "the call to be cancelled")
