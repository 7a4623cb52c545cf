"""The tools of an attempt, called from its event loop, from threads, and after its end."""

import asyncio
import threading

import pytest

from accepted.domain.failures import LeaseLost
from accepted_worker.attempt.loop_bridge import Latest, LoopBridge
from tests.support.waiting import until


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


async def test_on_the_loop_it_is_awaited_and_in_a_thread_it_blocks() -> None:
    bridge = LoopBridge()
    assert await bridge.call(answer()) == 42
    assert await asyncio.to_thread(lambda: bridge.call(answer())) == 42


async def test_a_handler_with_an_event_loop_of_its_own_awaits_it_there() -> None:
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
async def test_whatever_it_raises_is_the_callers_error(raised: type[BaseException], elsewhere: bool) -> None:
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
    if raised is StopIteration:  # no coroutine can raise it
        raised = RuntimeError
    assert type(error) is raised


async def test_after_the_end_nothing_is_called() -> None:
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


async def test_of_many_values_from_threads_the_latest_is_handed_over() -> None:
    """A call of the loop for each would keep it from all else."""
    heard: list[str] = []
    latest = Latest(LoopBridge(), heard.append)

    def say() -> None:
        for number in range(1000):
            latest(str(number))

    thread = threading.Thread(target=say)
    thread.start()
    thread.join()  # the loop stands still
    await asyncio.sleep(0)
    assert heard == ["999"]
    latest("at once, on the loop")
    await asyncio.to_thread(latest, "later")
    await asyncio.sleep(0)
    assert heard == ["999", "at once, on the loop", "later"]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in a thread", "on a loop of its own"])
async def test_the_end_breaks_off_what_a_thread_waits_for(elsewhere: bool) -> None:
    bridge, begun, broken_off = LoopBridge(), threading.Event(), asyncio.Event()

    async def never() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            broken_off.set()

    async def on_its_own_loop() -> None:
        await bridge.call(never())

    def call() -> None:
        asyncio.run(on_its_own_loop()) if elsewhere else bridge.call(never())

    waiting = asyncio.create_task(asyncio.to_thread(call))
    await until(begun.is_set, 10, "the call to be under way")
    bridge.end()
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(waiting, 5)
    await until(broken_off.is_set, 5, "the call to be broken off")


async def test_a_call_given_up_on_a_loop_of_its_own_is_broken_off() -> None:
    bridge, broken_off = LoopBridge(), asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            broken_off.set()

    async def on_its_own_loop() -> None:
        async with asyncio.timeout(0.2):
            await bridge.call(never())

    with pytest.raises(TimeoutError):
        await asyncio.to_thread(lambda: asyncio.run(on_its_own_loop()))
    await until(broken_off.is_set, 5, "the call to be broken off")
