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
from typing import Any

from accepted_worker.attempt.handler_call import Ended
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
        running = self._pool.submit(contextvars.copy_context().run, _contained, function, threads)
        try:
            ended = await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if threads and not running.done():
                left = began + allowed - loop.time()
                self._orphans.add(running, "thread", _where(threads[0]), left)
            raise
        return outcome(ended)

    def close(self) -> None:
        """Start no more. One that never returns is left to the end of the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def in_a_thread(function: Callable[[], object]) -> object:
    """What `function` returns or raises, in one of the event loop's own threads and in the context of the caller."""
    return outcome(await asyncio.to_thread(_contained, function, []))


def outcome(ended: Ended) -> Any:
    """What a call returned; raises what it raised."""
    if ended.error is not None:
        raise ended.error
    return ended.result


def _contained(function: Callable[[], object], threads: list[int]) -> Ended:
    """As a value, for a future refuses to hold some exceptions, and then never ends."""
    threads.append(threading.get_ident())
    try:
        return Ended(function())
    except BaseException as error:
        return Ended(error=error)


def _where(thread: int) -> str | None:
    frame = sys._current_frames().get(thread)
    return None if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
