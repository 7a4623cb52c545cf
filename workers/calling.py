"""The handler's tools live on the worker's event loop; handlers use them from there and from threads."""

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine
from typing import Any

from app.domain.failures import LeaseLost


class Calls:
    """The calls of one attempt. Made on the event loop that runs the attempt."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._from_threads: set[concurrent.futures.Future[Any]] = set()
        self._ended = False

    def soon(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function` on the loop, now or in a moment, unless the attempt is over by then."""
        if running_loop() is self._loop:
            self._unless_ended(function, *arguments)
        else:
            self._loop.call_soon_threadsafe(self._unless_ended, function, *arguments)

    def __call__(self, work: Coroutine[Any, Any, Any]) -> Any:
        """On an event loop something to await; in a plain thread the result itself, once it is there.

        Raises `LeaseLost` for an attempt that is over, also in a thread that waits for its result.
        """
        if self._ended:
            work.close()
            raise LeaseLost
        loop = running_loop()
        if loop is self._loop:
            return work
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        if loop is not None:
            return asyncio.wrap_future(future)
        self._loop.call_soon_threadsafe(self._keep, future)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise LeaseLost from None

    def end(self) -> None:
        """The attempt is over: what its threads still wait for is broken off."""
        self._ended = True
        for future in list(self._from_threads):
            future.cancel()

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
    """The event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
