"""The handler's tools live on the worker's event loop; handlers use them from there and from threads."""

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine
from typing import Any

from accepted.domain.failures import LeaseLost
from accepted_worker.runtime.handler_call import Ended, contained
from accepted_worker.runtime.threads import outcome


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
        if loop is not None:
            return self._awaited(work)
        try:
            ended = self._begin(work).result()
        except concurrent.futures.CancelledError:
            raise LeaseLost from None
        return outcome(ended)

    def end(self) -> None:
        """The attempt is over: what its threads still wait for is broken off."""
        self._ended = True
        for future in list(self._from_threads):
            future.cancel()

    async def _awaited(self, work: Coroutine[Any, Any, Any]) -> Any:
        """On another loop than ours."""
        try:
            ended = await asyncio.wrap_future(self._begin(work))
        except asyncio.CancelledError:
            if self._ended:
                raise LeaseLost from None
            raise
        return outcome(ended)

    def _begin(self, work: Coroutine[Any, Any, Any]) -> "concurrent.futures.Future[Ended]":
        """Cancelled when the attempt ends."""
        future = asyncio.run_coroutine_threadsafe(contained(work), self._loop)
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
    """Hands values over to `take`, on the loop. Of many from threads it is the latest: a call of the loop for each
    would keep it from all else."""

    def __init__(self, calls: Calls, take: Callable[[str], None]) -> None:
        self._calls = calls
        self._take = take
        self._value = ""
        self._coming = False

    def __call__(self, value: str) -> None:
        """Returns at once. What is said before the attempt ends is handed over before it ends."""
        self._value = value
        if not self._coming:
            self._coming = True
            self._calls.soon(self._hand_over)

    def _hand_over(self) -> None:
        self._coming = False  # first: whoever says something from here on asks for another turn
        self._take(self._value)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
