"""Suspects: jobs that one more crash would fail. Their next attempt runs alone, in a process that runs nothing else.

A worker that dies takes all its attempts along, and the ledger cannot tell which of them was the cause. The crash that
fails a job is provably its own, because nothing else ran in that process; an innocent job succeeds there.
See docs/decisions/0020-suspects-run-alone.md.
"""

import asyncio
import random
import time
from uuid import UUID

import msgspec
import structlog

from accepted import correlation, logs
from accepted.domain import transitions
from accepted.domain.failures import FailureClass, HandlerError, TransientError
from accepted.domain.job import Status
from accepted.domain.transitions import MAX_CRASHES, Transition
from accepted.handler import Handler
from accepted.process import memory_bytes
from accepted.settings import Settings
from accepted.storage.attempts.claims import Claim
from accepted_worker.attempt import failures
from accepted_worker.attempt.handler_call import CLEANUP_SECONDS, EndReason
from accepted_worker.process_pool.child_process import ChildProcess, Crashed
from accepted_worker.process_pool.messages import Recorded, RunAlone, Setup
from accepted_worker.process_pool.pool import ProcessPool
from accepted_worker.runtime.executor import Executor, running_attempt, timeout_of

ENTRY = "accepted_worker.runtime.alone"
"""The module of the children that run suspects."""

KILL_SECONDS = CLEANUP_SECONDS + 0.5
"""Seconds for a child to end an attempt and record that, before it is killed: less than the 2 s of a cancel and of
handing back jobs."""

LATE_SECONDS = CLEANUP_SECONDS + 5.0
"""Seconds after an attempt's timeout until its child is killed. It times its handler itself, unless that blocks it."""

MEMORY_SHARE = 0.25
CHILD_BYTES = 128 * 2**20
MOST_AT_ONCE = 16
"""Children may take this share of the memory of the machine or container, at so much each, and a few connections to the
ledger each. After a second death all jobs of a worker are suspects; they wait for one another."""

log = structlog.get_logger("attempt")


class Suspects:
    """Runs the suspects of one worker."""

    def __init__(self, handlers: dict[str, Handler], executor: Executor, setup: Setup, settings: Settings) -> None:
        self._handlers = handlers
        self._executor = executor
        self._settings = msgspec.Raw(settings.model_dump_json().encode())
        self._pool = ProcessPool(setup, ENTRY)
        self._room = asyncio.Semaphore(max(1, min(MOST_AT_ONCE, int(memory_bytes() * MEMORY_SHARE) // CHILD_BYTES)))
        self._running: dict[tuple[UUID, int], _LoneAttempt] = {}

    def include(self, claim: Claim) -> bool:
        """Whether this job has to run alone. Handlers in processes always do, and deliveries run no code of others."""
        if claim.crashes < MAX_CRASHES - 1:
            return False
        handler = self._handlers.get(claim.job.type)
        return handler is not None and not (handler.in_process or handler.type.internal)

    async def run(self, claim: Claim) -> Transition | None:
        """Run one attempt alone. Returns None if its child has recorded the outcome, else the outcome to record.

        Never raises for what a handler does. If it is cancelled, the job is handed back.
        """
        key = claim.job.id, claim.job.attempt
        correlation.bind(correlation.ids_of_attempt(claim.job, claim.traceparent))
        lone = self._running[key] = _LoneAttempt(claim, self._handlers[claim.job.type], self._room, self._pool)
        try:
            end = await lone.run(RunAlone(claim, self._settings))
        finally:
            del self._running[key]
        if isinstance(end, Recorded):
            self._executor.count(claim, end.outcome, lone.seconds, handed_back=end.handed_back, dead=end.dead)
            return None
        dead = end.status is Status.FAILED
        self._executor.count(claim, end.outcome, lone.seconds, handed_back=bool(end.extra_attempts), dead=dead)
        logs.attempt(end, type=claim.job.type, queue=claim.job.queue, seconds=lone.seconds)
        return end

    def cancel(self, job_id: UUID, attempt: int) -> None:
        """The job was cancelled: end its attempt, as `Executor.cancel` does. Can be repeated."""
        lone = self._running.get((job_id, attempt))
        if lone is not None:
            lone.cancel()

    async def aclose(self) -> None:
        """Kill all children."""
        await self._pool.aclose()


class _LoneAttempt:
    """One attempt in a child of its own."""

    def __init__(self, claim: Claim, handler: Handler, room: asyncio.Semaphore, pool: ProcessPool) -> None:
        self._running = running_attempt(claim, handler)
        self._timeout = timeout_of(claim, handler)
        self._interruptible = handler.interruptible
        self._room = room
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._child: ChildProcess | None = None
        self._began: float | None = None
        self._handler_over = False
        self._end_reason: EndReason | None = None

    @property
    def seconds(self) -> float:
        """How long it has run, without the wait for its child."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    async def run(self, order: RunAlone) -> Recorded | Transition:
        self._task = asyncio.create_task(self._in_child(order))
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            self._end(EndReason.STOPPING, kill=True)
            await asyncio.wait({self._task})
        try:
            return self._task.result()
        except (Exception, asyncio.CancelledError) as error:
            return self._unrecorded(error)

    def cancel(self) -> None:
        if self._end_reason is None:
            self._end(EndReason.CANCELLED, kill=self._interruptible)

    async def _in_child(self, order: RunAlone) -> Recorded:
        async with self._room, self._pool.child() as child:
            self._child, self._began = child, time.monotonic()
            late = self._loop.call_later(self._timeout + LATE_SECONDS, self._end_late)

            def handler_over() -> None:
                late.cancel()
                self._handler_over = True

            try:
                return await child.run_alone(order, handler_over)
            finally:
                late.cancel()
                self._child = None

    def _end(self, reason: EndReason, *, kill: bool) -> None:
        """Ask the child to end the attempt, and, with `kill`, kill it if it does not."""
        self._end_reason = self._end_reason or reason
        if self._child is None:
            self._task.cancel()
            return
        self._child.end_alone(stopping=reason is EndReason.STOPPING)
        if kill:
            self._loop.call_later(KILL_SECONDS, self._kill_for, reason)

    def _end_late(self) -> None:
        self._end_reason = self._end_reason or EndReason.TIMEOUT
        self._kill_for(EndReason.TIMEOUT)

    def _kill_for(self, reason: EndReason) -> None:
        """What a handler has come to is recorded, however long the ledger is away, unless the worker stops."""
        if self._child is not None and (reason is EndReason.STOPPING or not self._handler_over):
            self._child.kill()

    def _unrecorded(self, error: BaseException) -> Transition:
        """The outcome of an attempt whose child was killed, or died, or did not start."""
        match self._end_reason:
            case EndReason.TIMEOUT:
                return self._failed(FailureClass.TIMEOUT, f"ran longer than {self._timeout:g} s")
            case EndReason.CANCELLED:
                return transitions.cancelled(self._running)
            case EndReason.STOPPING:
                return transitions.handed_back(self._running)
        if isinstance(error, Crashed):
            return transitions.crashed(self._running, random.random(), str(error))
        if not isinstance(error, HandlerError):
            log.error("attempt_broken", job_id=str(self._running.job_id), exc_info=error)
            error = TransientError(failures.describe(error))
        return self._failed(error.failure_class, failures.text_of(error))

    def _failed(self, kind: FailureClass, message: str) -> Transition:
        return transitions.failed(self._running, kind, message, random.random())
