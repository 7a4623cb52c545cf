"""Runs one attempt: calls the handler within its timeout, and turns what happens into a transition.

Every exception of a handler belongs to a failure class, so nothing that a handler raises leaves this module.
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

from accepted import correlation, logs
from accepted.context import Context
from accepted.domain import transitions
from accepted.domain.failures import HandlerError, InvalidJob, OnNotFound, TargetTimeout, TransientError
from accepted.domain.job import DEFAULT_TIMEOUT, Status
from accepted.domain.retry import Retry, read_policy
from accepted.domain.transitions import RunningAttempt, Transition
from accepted.handler import Handler
from accepted.metrics import ATTEMPT_SECONDS, ATTEMPTS
from accepted.services.monitoring.presence import RecentOutcomes
from accepted.services.monitoring.statistics import Measurements
from accepted.storage.attempts.claims import Claim
from accepted.tracing import jobs as tracing
from accepted_worker.attempt import failures
from accepted_worker.attempt.attempt_log import keep_in_this_context
from accepted_worker.attempt.handler_call import CalledAttempt, CallOutcome, EndReason, HandlerCall
from accepted_worker.attempt.threads import Threads
from accepted_worker.attempt.tools import Tools
from accepted_worker.attempt.values import payload_of, result_of
from accepted_worker.outbound.targets import Deferred
from accepted_worker.process_pool.child_process import Crashed
from accepted_worker.process_pool.pool import START_SECONDS, ProcessPool
from accepted_worker.process_pool.tool_server import ToolServer

log = structlog.get_logger("attempt")


class Executor:
    """Runs claimed jobs with the handlers of this worker."""

    def __init__(
        self,
        handlers: dict[str, Handler],
        tools: Tools,
        threads: int,
        max_result_bytes: int,
        pool: ProcessPool | None = None,
        after_attempt: Callable[[str], None] | None = None,
    ) -> None:
        """`pool` is for handlers with `runs_in="process"`."""
        self._handlers = handlers
        self.tools = tools
        self.measurements = Measurements()
        self.outcomes = RecentOutcomes()
        self._pool = pool
        self._calls: dict[tuple[UUID, int], HandlerCall] = {}
        self._orphans = tools.orphans
        self._threads = Threads(threads, self._orphans)
        self._max_result_bytes = max_result_bytes
        self._after_attempt = after_attempt

    @property
    def exhausted(self) -> asyncio.Event:
        """Set when this process has to be replaced, because too many orphaned handlers hang."""
        return self._orphans.too_many

    def when_there_is_room(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` now, or, with too many orphaned handlers, when the next one returns."""
        self._orphans.when_there_is_room(go_on)

    async def run(self, claim: Claim) -> Transition:
        """Run one attempt. Never raises for what a handler does. If it is cancelled, the job is handed back."""
        started = time.monotonic()
        correlation.bind(correlation.ids_of_attempt(claim.job, claim.traceparent))
        handler = self._handlers.get(claim.job.type)
        running = running_attempt(claim, handler)
        try:
            transition = await self._attempt(claim, handler, running)
        except Exception as error:  # a bug of ours; the attempt has to be closed all the same
            log.exception("attempt_broken", job_id=str(claim.job.id))
            transition = _failed(running, TransientError(failures.describe(error)))
        if self._after_attempt is not None:
            self._after_attempt(claim.job.type)
        transition = await self._closed(transition)
        seconds = time.monotonic() - started
        self.count(
            claim, transition.outcome, seconds,
            handed_back=bool(transition.extra_attempts), dead=transition.status is Status.FAILED,
        )  # fmt: skip
        logs.attempt(transition, type=claim.job.type, queue=claim.job.queue, seconds=seconds)
        return transition

    def count(self, claim: Claim, outcome: str, seconds: float, *, handed_back: bool, dead: bool) -> None:
        """Count an attempt that has ended. `dead`: its job has failed for good."""
        self.outcomes.count(outcome)
        ATTEMPTS.labels(claim.job.type, outcome).inc()
        ATTEMPT_SECONDS.labels(claim.job.type).observe(seconds)
        if not handed_back:
            series = claim.job.tenant, claim.job.queue, claim.job.type
            self.measurements.ended(series, outcome, seconds, dead=dead)

    def cancel(self, job_id: UUID, attempt: int) -> None:
        """The job was cancelled: end its handler, or, in a thread, tell it. Can be repeated."""
        call = self._calls.get((job_id, attempt))
        if call is not None:
            call.cancel()

    def stop(self) -> None:
        """Start no more threads."""
        self._threads.close()

    async def _closed(self, transition: Transition) -> Transition:
        closing = asyncio.ensure_future(self.tools.close(transition))
        try:
            return await asyncio.shield(closing)
        except asyncio.CancelledError:  # the worker stops, but the outcome is known and must be recorded
            return await closing

    async def _attempt(self, claim: Claim, handler: Handler | None, running: RunningAttempt) -> Transition:
        if handler is None:
            return transitions.unserved(running, claim.job.type)
        try:
            call = await self.tools.targets.ask(claim.job)
        except asyncio.CancelledError:
            return transitions.handed_back(running)
        if isinstance(call, Deferred):
            return transitions.deferred(running, *call)
        with tracing.below(f"attempt {claim.job.type}") as span:
            transition = await self._run(claim, handler, running)
            tracing.ended(span, transition.outcome)
        if call is not None:
            self.tools.targets.tell(call, transition)
        return transition

    async def _run(self, claim: Claim, handler: Handler, running: RunningAttempt) -> Transition:
        timeout = timeout_of(claim, handler)
        context = self.tools.open(claim, timeout, _type_timeout(handler))
        function: Callable[[], Coroutine[Any, Any, object]] = partial(self._call, handler, context, claim)
        if handler.in_process:
            function = partial(self._call_in_process, context, timeout, claim)
        called = CalledAttempt(claim.job.type, claim.lease)
        call = HandlerCall(function, called, context.ending, self._orphans, interruptible=handler.interruptible)
        self._calls[running.job_id, running.attempt] = call
        try:
            outcome = await call.wait(timeout + START_SECONDS if handler.in_process else timeout)
        finally:
            del self._calls[running.job_id, running.attempt]
        match call.end_reason:
            case EndReason.TIMEOUT:
                return _failed(running, TargetTimeout(f"ran longer than {timeout:g} s"), outcome and outcome.error)
            case EndReason.CANCELLED:
                return transitions.cancelled(running)
            case EndReason.STOPPING:  # even with a result, because many handlers return half-way when cancelled
                return transitions.handed_back(running)
            case _:
                return self._transition(running, outcome or CallOutcome(error=asyncio.CancelledError()))

    async def _call(self, handler: Handler, context: Context, claim: Claim) -> object:
        keep_in_this_context(self.tools.log_of(claim.lease))
        payload = payload_of(handler, context.job)
        await self.tools.read_results(claim.lease)
        if handler.is_async:
            return await handler.function(payload, context)
        return await self._threads.call(partial(handler.function, payload, context), _type_timeout(handler))

    async def _call_in_process(self, context: Context, timeout: float, claim: Claim) -> object:
        tool_server = ToolServer(
            context.tools, partial(self.tools.read_results, claim.lease), self.tools.log_of(claim.lease)
        )
        assert self._pool is not None, "no pool for this handler"
        try:
            return await self._pool.run(context.job, timeout, tool_server.receive)
        finally:
            tool_server.close()

    def _transition(self, running: RunningAttempt, outcome: CallOutcome) -> Transition:
        if outcome.error is None:
            return self._succeeded(running, outcome.result)
        if isinstance(outcome.error, Crashed):
            return transitions.crashed(running, random.random(), str(outcome.error))
        try:
            return _failed(running, failures.of(outcome.error), outcome.error)
        except BaseException as error:  # the methods of a handler's own exception class can raise anything
            return _failed(running, TransientError(failures.describe(error)))

    def _succeeded(self, running: RunningAttempt, result: object) -> Transition:
        try:
            return transitions.succeeded(running, result_of(result, self._max_result_bytes))
        except InvalidJob as error:
            return _failed(running, error)


def timeout_of(claim: Claim, handler: Handler) -> float:
    """Seconds that the attempt may take."""
    return claim.timeout or _type_timeout(handler)


def _type_timeout(handler: Handler) -> float:
    """Seconds, for jobs that set no timeout of their own."""
    return handler.type.timeout or DEFAULT_TIMEOUT


def running_attempt(claim: Claim, handler: Handler | None) -> RunningAttempt:
    """What the outcome of a claimed attempt depends on."""
    return RunningAttempt(
        job_id=claim.job.id,
        attempt=claim.job.attempt,
        worker_id=claim.worker_id,
        max_attempts=claim.job.max_attempts,
        crashes=claim.crashes,
        retry=_policy(claim, handler),
        not_found=handler.type.not_found if handler is not None else OnNotFound.FAIL,
        ends_alone=claim.ends_alone,
    )


def _policy(claim: Claim, handler: Handler | None) -> Retry:
    of_type = handler.type.retry if handler is not None else Retry()
    return of_type if claim.retry is None else read_policy(claim.retry, of_type)


def _failed(running: RunningAttempt, failure: HandlerError, raised: BaseException | None = None) -> Transition:
    """`raised` is what the handler raised. After a timeout it is the CancelledError, which shows where it was."""
    traceback = None if raised is None else failures.traceback_of(raised)
    message = failures.text_of(failure)
    transition = transitions.failed(
        running, failure.failure_class, message, random.random(), failure.retry_after, traceback
    )
    return msgspec.structs.replace(transition, where=None if raised is None else failures.place_of(raised))
