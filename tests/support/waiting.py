"""Waiting for a condition instead of for a time: no test sleeps and hopes."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.1
"""Seconds between two looks. What takes long is looked at less often: looks at a service cost CPU that it needs."""

GROWTH = 1.15

T = TypeVar("T")


async def until(
    predicate: Callable[[], T | Awaitable[T]],
    timeout: float = 10.0,
    what: str | Callable[[], str] = "",
    *,
    interval: float | None = None,
) -> T:
    """Return the first truthy value of `predicate` (sync or async).

    Fails the test after `timeout` seconds, naming `what` was waited for (a callable is asked only then, so
    it can tell the state of things at the end) and what the predicate said last. An exception from the
    predicate is the test's to see: it is not swallowed. `interval` is for tests that measure a time.
    """
    deadline = time.monotonic() + timeout
    pause = interval or FIRST_PAUSE
    while True:
        answer = predicate()
        value: T = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() >= deadline:
            wanted = what() if callable(what) else what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"not within {timeout:g} s: {wanted} (last answer: {value!r})")
        await asyncio.sleep(pause)
        pause = interval or min(pause * GROWTH, LONGEST_PAUSE)
