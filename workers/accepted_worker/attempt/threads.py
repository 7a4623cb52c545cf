"""Threads of handlers, and the bridge from them to the worker's event loop.

`def` handlers and steps run in threads. Python cannot stop a thread: a handler that runs on after its attempt is an
orphan and keeps its thread, and the pool has `slots.MAX_ORPHANS` threads more, so that it never takes the thread of
another job. The tools of a context run on the worker's event loop; handlers call them from threads, and from event
loops of their own, over the bridge.
"""

import asyncio
import concurrent.futures
import contextvars
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from accepted.domain.failures import LeaseLost
from accepted_worker.attempt.handler_call import CallOutcome, outcome_of
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


class LoopBridge:
    """Runs the tool calls of one attempt. Create it on the worker's event loop; call it from anywhere."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._from_threads: set[concurrent.futures.Future[Any]] = set()
        self._ended = False

    def call_soon(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function` on the worker's loop, now or soon; not after the attempt has ended."""
        if running_loop() is self._loop:
            self._unless_ended(function, *arguments)
        else:
            self._loop.call_soon_threadsafe(self._unless_ended, function, *arguments)

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run `work` on the worker's loop. Returns an awaitable on an event loop, and the result in a plain thread.

        Raises `LeaseLost` when the attempt has ended, or ends while a thread waits for the result.
        """
        if self._ended:
            work.close()
            raise LeaseLost
        loop = running_loop()
        if loop is self._loop:
            return work
        if loop is not None:
            return self._call_from_another_loop(work)
        try:
            outcome = self._begin(work).result()
        except concurrent.futures.CancelledError:
            raise LeaseLost from None
        return outcome.unwrap()

    def end(self) -> None:
        """The attempt has ended: cancel the calls that other threads wait for."""
        self._ended = True
        for future in list(self._from_threads):
            future.cancel()

    async def _call_from_another_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            outcome = await asyncio.wrap_future(self._begin(work))
        except asyncio.CancelledError:
            if self._ended:
                raise LeaseLost from None
            raise
        return outcome.unwrap()

    def _begin(self, work: Coroutine[Any, Any, Any]) -> "concurrent.futures.Future[CallOutcome]":
        future = asyncio.run_coroutine_threadsafe(outcome_of(work), self._loop)
        self._loop.call_soon_threadsafe(self._keep, future)
        return future

    def _unless_ended(self, function: Callable[..., None], *arguments: Any) -> None:
        if not self._ended:
            function(*arguments)

    def _keep(self, future: "concurrent.futures.Future[Any]") -> None:
        if self._ended:
            future.cancel()
        elif not future.done():
            self._from_threads.add(future)
            future.add_done_callback(self._from_threads.discard)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


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
