"""Child processes for handlers that compute: each runs one attempt at a time, and is killed, not asked, to end it.

What the pool guarantees:

- A child runs beside the worker, not inside it. Whatever it does, the worker's event loop, its heartbeat and its other
  slots go on.
- An attempt that is given up (timeout, cancel, shutdown) is dead at once, with every process in its process group. What
  it started with a session or a group of its own (`start_new_session=True`) is not in it.
- No child outlives its worker.
- A child starts when it is needed, and ends when it has been idle for a while.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import msgspec

from accepted.domain.failures import TargetTimeout, TransientError
from accepted.domain.job import Job
from accepted_worker import memory_budget
from accepted_worker.process_pool.child_process import ChildProcess, Crashed, Receive
from accepted_worker.process_pool.messages import Setup

IDLE_SECONDS = 60.0
"""Seconds after which an idle child is ended. Longer than the pauses of a busy queue."""

STARTS_AT_ONCE = os.cpu_count() or 1
"""Children that start at the same time. Ten on two cores would all take as long as the tenth."""

START_SECONDS = 60.0
"""Seconds for a child to load the handlers, which takes 1 s on an idle machine. Not part of the job's timeout."""

END_SECONDS = 2.0
"""Seconds to wait for killed children when the pool closes. Only cleanliness depends on it."""

ENTRY = "accepted_worker.process_pool.child"
"""The module of the children that run handlers with `runs_in="process"`."""


class ProcessPool:
    """Runs each attempt in a child of its own. The worker's slots limit how many there are."""

    def __init__(self, setup: Setup, entry: str = ENTRY) -> None:
        self._entry = entry
        self._memory = memory_budget.create()
        self._setup = msgspec.structs.replace(setup, memory_file=self._memory)
        self._idle: dict[ChildProcess, asyncio.TimerHandle] = {}
        self._children: set[ChildProcess] = set()
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE)

    @contextlib.asynccontextmanager
    async def child(self) -> AsyncIterator[ChildProcess]:
        """A child that is ready for one attempt. Leaving the block before the attempt ends kills it.

        Raises `TransientError` if no child can be started.
        """
        child = self._take()
        if child is None:
            async with self._starts:
                child = self._take() or await self._start()
        try:
            yield child
        finally:
            self._give_back(child)

    async def run(self, job: Job, seconds: float, receive: Receive) -> msgspec.Raw:
        """Run one attempt for up to `seconds` after its child is ready; returns the result as JSON.

        Raises `RaisedInChild`, `Crashed`, `TargetTimeout` after `seconds`, and `TransientError` when no child can be
        started. Cancelling it kills the child.
        """
        async with self.child() as child:
            try:
                async with asyncio.timeout(seconds):
                    return await child.run(job, receive)
            except TimeoutError:
                raise TargetTimeout(f"ran longer than {seconds:g} s") from None

    async def aclose(self) -> None:
        """Kill every child, and wait for their ends."""
        ended = [child.ended for child in self._children]
        for child in list(self._children):
            self._end(child)
        if ended:
            await asyncio.wait(ended, timeout=END_SECONDS)
        os.close(self._memory)

    def _take(self) -> ChildProcess | None:
        while self._idle:
            child, timer = self._idle.popitem()
            timer.cancel()
            if child.alive:
                return child
            self._end(child)
        return None

    async def _start(self) -> ChildProcess:
        child = await ChildProcess.spawn(self._entry, self._memory)
        self._children.add(child)
        child.ended.add_done_callback(lambda _: self._children.discard(child))
        try:
            async with asyncio.timeout(START_SECONDS):
                await child.prepare(self._setup)
        except (TimeoutError, Crashed) as error:
            self._end(child)
            raise TransientError(f"no process was ready for this job: {error or 'it took too long'}") from None
        except BaseException:
            self._end(child)
            raise
        return child

    def _give_back(self, child: ChildProcess) -> None:
        if child.worn_out:
            self._end(child)
        else:
            loop = asyncio.get_running_loop()
            self._idle[child] = loop.call_later(IDLE_SECONDS, self._end, child)

    def _end(self, child: ChildProcess) -> None:
        if timer := self._idle.pop(child, None):
            timer.cancel()
        child.kill()
