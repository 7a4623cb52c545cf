"""The bridge from a handler's thread or event loop to the worker's event loop, where the tools of its context run."""

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine
from typing import Any

from accepted.domain.failures import LeaseLost
from accepted_worker.attempt.handler_call import CallOutcome, outcome_of


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


class Latest:
    """Passes values to `take` on the worker's loop, from any thread.

    Of several values that come before the loop's next turn only the last is passed on: a thread that reports in a
    tight loop would otherwise keep the event loop from all other work.
    """

    def __init__(self, bridge: LoopBridge, take: Callable[[str], None]) -> None:
        self._bridge = bridge
        self._take = take
        self._value = ""
        self._scheduled = False

    def __call__(self, value: str) -> None:
        """Returns at once. A value that is given before the attempt ends is passed on before it ends."""
        self._value = value
        if not self._scheduled:
            self._scheduled = True
            self._bridge.call_soon(self._pass_on)

    def _pass_on(self) -> None:
        self._scheduled = False  # first, because a value that is set after this line needs a turn of its own
        self._take(self._value)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
