"""`def` handlers and steps, each in a thread. One that never returns costs a thread, never the slot of another job.

Python cannot stop a thread. When an attempt is over and its thread is not, the thread is left behind: there is one
more to take its place, for as many as there is room for (`accepted_worker.runtime.orphans.MOST`).
"""

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from accepted_worker.runtime import orphans
from accepted_worker.runtime.handler_call import Ended
from accepted_worker.runtime.orphans import LeftBehind


class Threads:
    """Room for `count` handlers at once, or the steps of as many, beside all that may be left behind."""

    def __init__(self, count: int, behind: LeftBehind, name: str = "handler") -> None:
        self._left_behind = behind
        self._pool = ThreadPoolExecutor(count + orphans.MOST + 1, thread_name_prefix=name)

    async def call(self, function: Callable[[], object], allowed: float) -> object:
        """What `function` returns or raises, in the context of the caller. Cancelling this leaves the thread behind;
        `allowed` is the time in seconds after which one that has not returned is taken to hang."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        threads: list[int] = []
        running = self._pool.submit(contextvars.copy_context().run, _contained, function, threads)
        try:
            ended = await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if threads and not running.done():
                left = began + allowed - loop.time()
                self._left_behind.add(running, "thread", _where(threads[0]), left)
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
