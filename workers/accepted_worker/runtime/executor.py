"""One attempt: run the handler within its timeout, and turn whatever happens into a transition.

User code's outcomes are values, decided here once. Nothing that a handler raises escapes: every exception is of
one failure class or another.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import structlog

from accepted.context import Context
from accepted.domain import transitions
from accepted.domain.failures import HandlerError, InvalidJob, OnNotFound, TargetTimeout, TransientError
from accepted.domain.job import DEFAULT_TIMEOUT
from accepted.domain.retry import Retry
from accepted.domain.transitions import RunningAttempt, Transition
from accepted.handler import Handler
from accepted.metrics import ATTEMPT_SECONDS, ATTEMPTS
from accepted.services.measuring import Runs
from accepted.storage.attempts.claims import Claim
from accepted_worker.attempt import failures, tracebacks
from accepted_worker.attempt.handler_call import Ended, Run, Why
from accepted_worker.attempt.threads import Threads
from accepted_worker.attempt.tools import Tools
from accepted_worker.attempt.values import payload_of, result_of
from accepted_worker.outbound.targets import HeldBack
from accepted_worker.process_pool.pool import START_SECONDS, Crashed, ProcessPool
from accepted_worker.process_pool.tool_server import ToolServer

log = structlog.get_logger("attempt")


class Executor:
    """Runs claims with the handlers of this worker. Never raises for what a handler does."""

    def __init__(
        self, handlers: dict[str, Handler], tools: Tools, threads: int, max_result_bytes: int, pool: ProcessPool
    ) -> None:
        self._handlers = handlers
        self.tools = tools
        self.runs = Runs()
        self._pool = pool
        self._runs: dict[tuple[UUID, int], Run] = {}
        self._orphans = tools.orphans
        self._threads = Threads(threads, self._orphans)
        self._max_result_bytes = max_result_bytes

    @property
    def exhausted(self) -> asyncio.Event:
        """Set when this process has to be replaced: too many handlers did not let go."""
        return self._orphans.too_many

    def when_there_is_room(self, go_on: Callable[[], None]) -> None:
        """Calls `go_on`: at once, or, with too many orphaned handlers to run another, when one of them returns."""
        self._orphans.when_there_is_room(go_on)

    async def run(self, claim: Claim) -> Transition:
        """Run one attempt to its end. Cancelling it means that the worker is stopping: the job is handed back."""
        started = time.monotonic()
        handler = self._handlers.get(claim.job.type)
        running = _running_attempt(claim, handler)
        try:
            transition = await self._attempt(claim, handler, running)
        except Exception as error:  # a fault of ours: the attempt is over all the same, and has to be closed
            log.exception("attempt_broken", job_id=str(claim.job.id))
            transition = _failed(running, TransientError(failures.describe(error)))
        transition = await self._closed(transition)
        seconds = time.monotonic() - started
        ATTEMPTS.labels(claim.job.type, transition.outcome).inc()
        ATTEMPT_SECONDS.labels(claim.job.type).observe(seconds)
        if not transition.extra_attempts:  # else it was handed back, and has not run
            self.runs.count(claim.job.queue, seconds)
        log.info(
            "attempt",
            job_id=str(claim.job.id),
            type=claim.job.type,
            queue=claim.job.queue,
            attempt=claim.job.attempt,
            outcome=transition.outcome,
            status=transition.status,
            duration_ms=round(seconds * 1000, 1),
        )
        return transition

    def cancel(self, job_id: UUID, attempt: int) -> None:
        """Somebody wants this job cancelled: end its handler, or, in a thread, let it know. May be said again."""
        run = self._runs.get((job_id, attempt))
        if run is not None:
            run.cancel()

    def stop(self) -> None:
        """Start no more threads."""
        self._threads.close()

    async def _closed(self, transition: Transition) -> Transition:
        closing = asyncio.ensure_future(self.tools.close(transition))
        try:
            return await asyncio.shield(closing)
        except asyncio.CancelledError:  # the worker stops; what the attempt came to is known, and not to be lost
            return await closing

    async def _attempt(self, claim: Claim, handler: Handler | None, running: RunningAttempt) -> Transition:
        if handler is None:
            return transitions.unserved(running, claim.job.type)
        try:
            call = await self.tools.targets.ask(claim.job)
        except asyncio.CancelledError:
            return transitions.handed_back(running)
        if isinstance(call, HeldBack):
            return transitions.held_back(running, *call)
        transition = await self._run(claim, handler, running)
        if call is not None:
            self.tools.targets.tell(call, transition)
        return transition

    async def _run(self, claim: Claim, handler: Handler, running: RunningAttempt) -> Transition:
        limit = claim.timeout or _allowed(handler)
        context = self.tools.open(claim, limit, _allowed(handler))
        call: Callable[[], Coroutine[Any, Any, object]] = partial(self._call, handler, context)
        if handler.in_process:
            call = partial(self._in_process, context, limit)
        run = Run(call, context.ending, self._orphans, interruptible=handler.interruptible)
        self._runs[running.job_id, running.attempt] = run
        try:
            ended = await run.within(limit + START_SECONDS if handler.in_process else limit)
        finally:
            del self._runs[running.job_id, running.attempt]
        match run.told_to_end:
            case Why.TIMEOUT:
                return _failed(running, TargetTimeout(f"ran longer than {limit:g} s"), ended and ended.error)
            case Why.CANCELLED:
                return transitions.cancelled(running)
            case Why.STOPPING:  # also if it returned: many take a CancelledError for a reason to return half-way
                return transitions.handed_back(running)
            case _:
                return self._outcome(running, ended or Ended(error=asyncio.CancelledError()))

    async def _call(self, handler: Handler, context: Context) -> object:
        payload = payload_of(handler, context.job)
        if handler.is_async:
            return await handler.function(payload, context)
        return await self._threads.call(partial(handler.function, payload, context), _allowed(handler))

    async def _in_process(self, context: Context, limit: float) -> object:
        tool_server = ToolServer(context.tools)
        try:
            return await self._pool.run(context.job, limit, tool_server.receive)
        finally:
            tool_server.close()

    def _outcome(self, running: RunningAttempt, ended: Ended) -> Transition:
        if ended.error is None:
            return self._succeeded(running, ended.result)
        if isinstance(ended.error, Crashed):
            return transitions.crashed(running, random.random(), str(ended.error))
        try:
            return _failed(running, failures.of(ended.error), ended.error)
        except BaseException as error:  # an exception of the handler's own making can be anything
            return _failed(running, TransientError(failures.describe(error)))

    def _succeeded(self, running: RunningAttempt, result: object) -> Transition:
        try:
            return transitions.succeeded(running, result_of(result, self._max_result_bytes))
        except InvalidJob as error:
            return _failed(running, error)


def _allowed(handler: Handler) -> float:
    """Seconds that its type gives it; a job may ask for others."""
    return handler.type.timeout or DEFAULT_TIMEOUT


def _running_attempt(claim: Claim, handler: Handler | None) -> RunningAttempt:
    return RunningAttempt(
        job_id=claim.job.id,
        attempt=claim.job.attempt,
        worker_id=claim.worker_id,
        max_attempts=claim.job.max_attempts,
        crashes=claim.crashes,
        retry=_policy(claim, handler),
        not_found=handler.type.not_found if handler is not None else OnNotFound.FAIL,
    )


def _policy(claim: Claim, handler: Handler | None) -> Retry:
    if claim.retry is not None:
        return msgspec.json.decode(claim.retry, type=Retry)
    return handler.type.retry if handler is not None else Retry()


def _failed(running: RunningAttempt, failure: HandlerError, raised: BaseException | None = None) -> Transition:
    """`raised` is what the handler raised: for a timeout, the cancelling that shows where it was."""
    traceback = None if raised is None else tracebacks.of(raised)
    message = failures.said(failure)
    return transitions.failed(running, failure.failure_class, message, random.random(), failure.retry_after, traceback)
