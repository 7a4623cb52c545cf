"""`ctx.step`: runs a function once for a job, and commits its result before the handler goes on."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from accepted.context import WITHIN_A_STEP
from accepted.domain.failures import LeaseLost
from accepted.domain.references import Lease
from accepted.storage.db.engine import retry_until_available
from accepted.tracing import jobs as tracing
from accepted_worker.attempt import failures, threads
from accepted_worker.attempt.records import AttemptRecords
from accepted_worker.attempt.values import step_name, step_result_of

InAThread = Callable[[Callable[[], Any]], Awaitable[object]]


class Steps:
    """The steps of one attempt. For the worker's event loop alone."""

    def __init__(self, records: AttemptRecords, lease: Lease, in_a_thread: InAThread, max_bytes: int) -> None:
        self._records = records
        self._lease = lease
        self._in_a_thread = in_a_thread
        self._max_bytes = max_bytes
        self._known: dict[str, str] | None = None
        self._reading = asyncio.Lock()
        self._running: dict[str, asyncio.Lock] = {}
        self._committing: dict[str, asyncio.Task[str]] = {}
        """By step name. A commit goes on when its caller is cancelled, so that the function does not run again."""

    async def run(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The result of the step `name`: from the ledger, or from running `function`."""
        name = step_name(name)
        known = await self._recalled()
        async with self._running.setdefault(name, asyncio.Lock()):
            if name not in known:
                if name not in self._committing:
                    value = await self._call(name, partial(function, *args, **kwargs))
                    result = step_result_of(name, value, self._max_bytes)
                    self._committing[name] = asyncio.create_task(self._commit(name, result))
                known[name] = await asyncio.shield(self._committing[name])
        return msgspec.json.decode(known[name])

    async def _call(self, name: str, function: Callable[[], Any]) -> Any:
        with tracing.below(f"step {name}") as span:
            try:
                return await call_step(function, self._in_a_thread)
            except Exception as error:
                span.failed(failures.of(error).failure_class)
                raise

    async def settled(self) -> None:
        """Wait until every result of this attempt is committed, or refused by the fence."""
        if self._committing:
            await asyncio.wait(self._committing.values())

    async def _recalled(self) -> dict[str, str]:
        async with self._reading:
            if self._known is None:
                self._known = await retry_until_available(self._recall, "handler_waits_for_ledger", self._lease.job_id)
            return self._known

    async def _recall(self) -> dict[str, str]:
        known = await self._records.recall_steps(self._lease)
        if known is None:
            raise LeaseLost
        return known

    async def _commit(self, name: str, result: str) -> str:
        commit = partial(self._records.remember_step, self._lease, name, result)
        if not await retry_until_available(commit, "handler_waits_for_ledger", self._lease.job_id):
            raise LeaseLost
        return result


async def call_step(function: Callable[[], Any], in_a_thread: InAThread = threads.in_a_thread) -> Any:
    """Call a step's function: on this event loop if it is async, else in a thread (by default one of the loop's)."""
    within = WITHIN_A_STEP.set(True)
    try:
        if inspect.iscoroutinefunction(function):
            return await function()
        result = await in_a_thread(function)
        return await result if inspect.isawaitable(result) else result
    finally:
        WITHIN_A_STEP.reset(within)
