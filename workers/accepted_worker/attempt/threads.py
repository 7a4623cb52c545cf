"""Threads for `def` handlers and steps.

Python cannot stop a thread. A handler that runs on after its attempt is an orphan: it keeps its thread, and the pool
has `slots.MAX_ORPHANS` threads more, so that it never takes the thread of another job.
"""

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from accepted_worker.attempt.handler_call import CallOutcome
from accepted_worker.attempt.slots import MAX_ORPHANS, OrphanedHandlers


class Threads:
    """Runs up to `count` handlers (or steps) at once, beside the orphans."""

    def __init__(self, count: int, orphans: OrphanedHandlers, name: str = "handler") -> None:
        self._orphans = orphans
        self._pool = ThreadPoolExecutor(count + MAX_ORPHANS + 1, thread_name_prefix=name)

    async def call(self, function: Callable[[], object], allowed: float) -> object:
        """Run `function` in a thread, in the caller's context; returns or raises what it does.

        Cancelling this makes a thread that has started an orphan. It counts as hanging once `allowed` seconds have
        passed since the call.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        threads: list[int] = []
        running = self._pool.submit(contextvars.copy_context().run, _outcome_of, function, threads)
        try:
            outcome = await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if threads and not running.done():
                left = began + allowed - loop.time()
                self._orphans.add(running, "thread", _position(threads[0]), left)
            raise
        return outcome.unwrap()

    def close(self) -> None:
        """Start no more threads. Does not wait for orphans: they end with the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def in_a_thread(function: Callable[[], object]) -> object:
    """Run `function` in a thread of the event loop's own pool, in the caller's context."""
    return (await asyncio.to_thread(_outcome_of, function, [])).unwrap()


def _outcome_of(function: Callable[[], object], threads: list[int]) -> CallOutcome:
    """As a value, because a future cannot hold every exception, and would never end."""
    threads.append(threading.get_ident())
    try:
        return CallOutcome(function())
    except BaseException as error:
        return CallOutcome(error=error)


def _position(thread: int) -> str | None:
    """The line that a thread runs now, as "file:line function"."""
    frame = sys._current_frames().get(thread)
    return None if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
