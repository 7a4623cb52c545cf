"""One call of a handler: its outcome is a value, and no task that it starts can end the event loop."""

import asyncio
import gc
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

import pytest

from accepted.context import EndRequest
from accepted.domain.references import Lease
from accepted_worker.attempt.handler_call import CalledAttempt, CallOutcome, HandlerCall, HandlerTask, task_factory
from accepted_worker.attempt.slots import OrphanedHandlers

ATTEMPT = CalledAttempt("noop", Lease(UUID(int=1), 1, UUID(int=2)))
Handler = Callable[[], Coroutine[Any, Any, object]]


async def outcome_of(handler: Handler) -> CallOutcome:
    """Call `handler` as a worker does, on a loop with the worker's task factory."""
    asyncio.get_running_loop().set_task_factory(task_factory)
    outcome = await HandlerCall(handler, ATTEMPT, EndRequest(), OrphanedHandlers(), interruptible=True).wait(10)
    assert outcome is not None
    return outcome


async def leave() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


async def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("task", "says"), [(leave, "SystemExit: 3"), (interrupt, "KeyboardInterrupt: ")])
async def test_an_exit_in_a_task_is_an_error_of_the_handler(task: Handler, says: str) -> None:
    async def gather() -> None:
        await asyncio.gather(task())

    async def group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(task())

    error = (await outcome_of(gather)).error
    assert (type(error), str(error)) == (RuntimeError, says)
    grouped = (await outcome_of(group)).error
    assert isinstance(grouped, ExceptionGroup)
    assert [str(one) for one in grouped.exceptions] == [says]


async def test_a_task_that_is_cancelled_before_it_starts_leaves_no_warning() -> None:
    async def handler() -> str:
        task = asyncio.create_task(leave())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return "fine"

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        assert (await outcome_of(handler)).result == "fine"
        gc.collect()
    assert [str(one.message) for one in caught if issubclass(one.category, RuntimeWarning)] == []


async def test_tasks_outside_of_handlers_are_as_asyncio_makes_them() -> None:
    asyncio.get_running_loop().set_task_factory(task_factory)
    work = asyncio.sleep(0)
    task = asyncio.create_task(work)
    assert task.get_coro() is work
    await task


async def test_every_task_that_a_handler_starts_is_known_to_be_its_own() -> None:
    found: list[object] = []

    async def grandchild() -> None:
        found.append(asyncio.current_task())

    async def child() -> None:
        found.append(asyncio.current_task())
        await asyncio.create_task(grandchild())

    async def handler() -> None:
        found.append(asyncio.current_task())
        await asyncio.gather(child())

    await outcome_of(handler)
    assert [task.attempt for task in found if isinstance(task, HandlerTask)] == [ATTEMPT] * 3
