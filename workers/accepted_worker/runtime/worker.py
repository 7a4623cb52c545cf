"""A worker: claims as many jobs as it has free slots, runs them, commits each outcome, then acks. In that order.

A worker can die at any point and no job is lost. Before the claim commits, the message is delivered again. After it,
the lease expires and the rescuer ends the attempt. After the outcome commits, a redelivered message is stale.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted import logs
from accepted.broker.base import Broker
from accepted.concurrency import cancel_requested
from accepted.domain import transitions
from accepted.domain.ids import new_id
from accepted.domain.transitions import Transition
from accepted.errors import LedgerUnavailable, WorkerExhausted
from accepted.handler import Handler
from accepted.services.jobs.claiming import Claimer, Delivery
from accepted.services.jobs.completion import MAX_BATCH
from accepted.services.queues import REPORT_EVERY
from accepted.storage import job_types, queues, workers
from accepted.storage.db import migrate
from accepted.storage.db.engine import RETRY_SECONDS, done_when_available, reading, transaction
from accepted.storage.db.notifications import Listener
from accepted.storage.jobs import cancellation
from accepted_worker.attempt.handler_call import task_factory
from accepted_worker.attempt.slots import Slots
from accepted_worker.runtime.executor import Executor
from accepted_worker.runtime.recording import Recorder

FIND_QUEUES_SECONDS = 2.0
"""Seconds between polls for new queues, when no notification of one comes."""

UNKNOWN_SECONDS = 10.0
"""Seconds after which an attempt is handed back that is ours in the ledger and unknown here: its claim committed, but
the answer was lost. Longer than a claim can take."""

FIND_SET_ASIDE_SECONDS = 1.0
"""Seconds between polls for jobs that workers without a handler for them have set aside."""

FIND_CANCELS_SECONDS = 0.4
"""Seconds between polls for cancels of running jobs. Together with the second that a handler has to clean up, less than
the 2 s in which a running job must be cancelled."""

HAND_BACK_SECONDS = 2.0
"""Seconds of the grace that are kept for handing back the jobs that did not finish."""

LINGER_SECONDS = 0.002
"""Seconds between two claims, after one of several jobs: the next claim can grow, and a claim of a hundred jobs costs
little more than one of ten. A single job is claimed at once."""

Work = Callable[[], Awaitable[None]]

log = structlog.get_logger(__name__)


class Worker:
    """Serves `queue_names` with `concurrency` slots; without names, every queue but those for other types only."""

    def __init__(
        self,
        engine: AsyncEngine,
        broker: Broker,
        handlers: dict[str, Handler],
        executor: Executor,
        *,
        queue_names: Sequence[str],
        concurrency: int,
        lease_ttl: float,
        shutdown_grace: float,
        ack_within: float,
        database_url: str,
    ) -> None:
        self.id: UUID = new_id()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._engine = engine
        self._handlers = handlers
        self._executor = executor
        self._queue_names = list(queue_names)
        self._concurrency = concurrency
        self._slots = Slots(concurrency)
        self._recorder = Recorder(engine, broker, executor.tools)
        self._claimer = Claimer(engine, broker, self.id, concurrency, sorted(handlers))
        self._heartbeat_every = lease_ttl / 3
        self._grace = shutdown_grace
        self._ack_within = ack_within
        self._queue_named = asyncio.Event()
        self._listener = Listener(database_url, queues.NEW_QUEUE_CHANNEL, lambda _: self._queue_named.set())
        self._stopping = asyncio.Event()
        self._exhausted = False
        self._attempts: set[asyncio.Task[None]] = set()
        self._running: set[tuple[UUID, int]] = set()
        self._acked_early: set[tuple[UUID, int]] = set()
        self._executing: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Claim no more jobs. `run` returns when the running ones have finished or are handed back."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop` is called. Raises `WorkerExhausted` at the end if the process has to be replaced."""
        asyncio.get_running_loop().set_task_factory(task_factory)
        if registered := await done_when_available(self._register, self._stopping.is_set):
            await self._serve()
        self._executor.stop()
        await self._recorder.close()
        if registered:
            await self._retire()
        if self._exhausted:
            raise WorkerExhausted("too many handlers outlived their attempts; this worker has to be started anew")

    async def _serve(self) -> None:
        background = [
            asyncio.create_task(self._every(self._heartbeat_every, self._heartbeat)),
            asyncio.create_task(self._every(FIND_QUEUES_SECONDS, self._find_queues, self._queue_named)),
            asyncio.create_task(self._claimer.run()),
            asyncio.create_task(self._every(FIND_SET_ASIDE_SECONDS, self._claimer.look_for_set_aside)),
            asyncio.create_task(self._stop_when_exhausted()),
            asyncio.create_task(self._every(FIND_CANCELS_SECONDS, self._cancel_requested)),
            asyncio.create_task(self._every(REPORT_EVERY, self._report)),
        ]
        if not self._queue_names:
            background.append(asyncio.create_task(self._listener.run()))
        claiming = asyncio.create_task(self._claim_jobs())
        if not self._stopping.is_set():
            log.info("worker_ready", worker_id=str(self.id), types=sorted(self._handlers))
        await self._stopping.wait()
        await self._claimer.stop()
        await self._finish(claiming)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)

    async def _stop_when_exhausted(self) -> None:
        """Orphans do not count while the worker stops anyway."""
        await self._executor.exhausted.wait()
        if not self._stopping.is_set():
            log.error("worker_exhausted", worker_id=str(self.id))
            self._exhausted = True
            self.stop()

    async def _register(self) -> None:
        await migrate.check_at_start(self._engine)
        async with transaction(self._engine) as conn:
            await job_types.register(conn, [handler.type for handler in self._handlers.values()])
            await self._beat(conn)
            await conn.commit()
        await self._find_queues()

    async def _claim_jobs(self) -> None:
        while not self._stopping.is_set():
            free = await self._slots.some()
            try:
                deliveries = await self._claimer.claim(min(free, MAX_BATCH))
            except LedgerUnavailable as error:
                logs.outage("claim_failed", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Exception:
                log.exception("claim_failed")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for delivery in deliveries:
                self._slots.take()
                self._running.add(_attempt_of(delivery))
                task = asyncio.create_task(self._attempt(delivery))
                self._attempts.add(task)
                task.add_done_callback(self._attempts.discard)
            if len(deliveries) > 1:
                await asyncio.sleep(LINGER_SECONDS)

    async def _attempt(self, delivery: Delivery) -> None:
        """Run the job, commit its outcome, ack its message."""
        early = asyncio.get_running_loop().call_later(self._ack_within, self._ack_early, delivery)
        try:
            transition = await self._execute(delivery)
            await self._recorder.record(transition)
            await self._ack(delivery)
        finally:
            early.cancel()
            self._acked_early.discard(_attempt_of(delivery))
            self._running.discard(_attempt_of(delivery))
            self._executor.when_there_is_room(self._slots.give_back)

    def _ack_early(self, delivery: Delivery) -> None:
        """Ack before the broker's consumer timeout. From now on only the lease keeps the job."""
        self._acked_early.add(_attempt_of(delivery))
        task = asyncio.create_task(self._claimer.ack([delivery]))
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    async def _ack(self, delivery: Delivery) -> None:
        """Ack once: a second ack of the same delivery tag is an error that closes the channel."""
        if _attempt_of(delivery) not in self._acked_early:
            await self._claimer.ack([delivery])

    async def _execute(self, delivery: Delivery) -> Transition:
        task = asyncio.current_task()
        assert task is not None
        self._executing.add(task)
        try:
            return await self._executor.run(delivery.claim)
        finally:
            self._executing.discard(task)

    async def _finish(self, claiming: asyncio.Task[None]) -> None:
        """Wait for running attempts within the grace, then hand back the rest."""
        seconds = max(self._grace - HAND_BACK_SECONDS, 0)
        log.info(
            "worker_stopping",
            waits_for=sorted(str(job_id) for job_id, _ in self._running)[:10],
            jobs=len(self._running),
            seconds=seconds,
        )
        deadline = asyncio.get_running_loop().time() + seconds
        self._slots.open()
        await asyncio.wait([claiming], timeout=max(self._grace / 2, 1))
        while self._attempts and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(set(self._attempts), timeout=left)
        if self._executing:
            log.info("jobs_handed_back", count=len(self._executing))
        for task in set(self._executing):
            task.cancel()
        if self._attempts:
            await asyncio.wait(set(self._attempts), timeout=HAND_BACK_SECONDS)

    async def _heartbeat(self) -> None:
        async with transaction(self._engine) as conn:
            await self._beat(conn)
            open_attempts = await workers.running_attempts_of(
                conn, self.id, UNKNOWN_SECONDS, len(self._running) + MAX_BATCH
            )
            await conn.commit()
        lost = [running for running in open_attempts if (running.job_id, running.attempt) not in self._running]
        if lost:
            log.warning("unknown_claims_handed_back", count=len(lost))
            await asyncio.gather(*(self._recorder.record(transitions.handed_back(running)) for running in lost))

    async def _beat(self, conn: AsyncConnection) -> None:
        """A stopping worker offers only the slots that are in use, so that the limiter admits no more jobs for it."""
        slots = len(self._running) if self._stopping.is_set() else self._concurrency
        queues = self._queue_names or None
        await workers.heartbeat(conn, self.id, self._name, slots=slots, queues=queues, types=sorted(self._handlers))

    async def _cancel_requested(self) -> None:
        if not self._running:
            return
        async with reading(self._engine) as conn:
            requested = await cancellation.requested(conn, self.id)
        for job_id, attempt in requested:
            self._executor.cancel(job_id, attempt)

    async def _find_queues(self) -> None:
        if self._queue_names:
            self._claimer.serve(self._queue_names)
            return
        async with reading(self._engine) as conn:
            found = set(await queues.served_by(conn, list(self._handlers)))
        self._claimer.serve(sorted(found | {handler.type.queue for handler in self._handlers.values()}))

    async def _report(self) -> None:
        await self._executor.run_times.report(self._engine)

    async def _retire(self) -> None:
        try:
            await self._report()
            async with transaction(self._engine) as conn:
                await workers.retire(conn, self.id)
                await conn.commit()
        except LedgerUnavailable as error:
            logs.outage("retire_failed", error)

    async def _every(self, seconds: float, work: Work, or_at_once: asyncio.Event | None = None) -> None:
        """Call `work` every so many `seconds`, and when `or_at_once` is set."""
        notified = or_at_once or asyncio.Event()
        while not cancel_requested():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await notified.wait()
            notified.clear()
            try:
                await work()
            except LedgerUnavailable as error:
                logs.outage("ledger_unavailable", error)
            except Exception:
                log.exception("worker_loop_failed", loop=work.__name__)


def _attempt_of(delivery: Delivery) -> tuple[UUID, int]:
    return delivery.claim.job.id, delivery.claim.job.attempt
