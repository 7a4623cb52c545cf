"""A lane of a worker: slots for some of its queues, with a subscription, claims and a row in `workers` of their own.

A worker has a lane for the jobs of its handlers, and one for deliveries (docs/decisions/0017-deliveries-have-their-own-
slots.md). No job takes a slot of the other lane, so a receiver that answers slowly holds up no handler. To the ledger
each lane is a worker: it holds leases, and its slots are counted for the queues that it serves.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from accepted import logs
from accepted.broker.base import Broker
from accepted.domain import transitions
from accepted.domain.transitions import RunningAttempt, Transition
from accepted.errors import LedgerUnavailable
from accepted.services.jobs.claiming import Claimer, Delivery
from accepted.services.jobs.completion import MAX_BATCH
from accepted.storage import workers
from accepted.storage.db.engine import RETRY_SECONDS
from accepted.storage.jobs import cancellation
from accepted.tracing import jobs as tracing
from accepted_worker.attempt.slots import Slots
from accepted_worker.runtime.claimed_ahead import ClaimedAhead
from accepted_worker.runtime.executor import Executor, running_attempt
from accepted_worker.runtime.recording import Recorder
from accepted_worker.runtime.suspects import Suspects

UNKNOWN_SECONDS = 10.0
"""Seconds after which an attempt is handed back that is ours in the ledger and unknown here: its claim committed, but
the answer was lost. Longer than a claim can take."""

HAND_BACK_SECONDS = 2.0
"""Seconds of the grace that are kept for handing back the jobs that did not finish."""

LINGER_SECONDS = 0.002
"""Seconds between two claims, after one of several jobs: the next claim can grow, and a claim of a hundred jobs costs
little more than one of ten. A single job is claimed at once."""

MOST_UNRECORDED = MAX_BATCH
"""Attempts that have ended and whose outcomes are not committed, while more jobs are claimed. A crash repeats them."""

log = structlog.get_logger(__name__)


class Lane:
    """Claims jobs, runs as many as it has slots, commits each outcome, then acks. In that order.

    A slot is free again when the handler has ended. The outcome is committed while the next one runs.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        broker: Broker,
        executor: Executor,
        suspects: Suspects,
        recorder: Recorder,
        *,
        id: UUID,
        process: UUID,
        name: str,
        queues: Sequence[str] | None,
        types: Collection[str],
        slots: int,
        ack_within: float,
        room: Callable[[Callable[[], None]], None],
    ) -> None:
        """`process` is the id of the worker's row in `processes`. `queues` None: all that `serve` names.

        `room` calls what it is given once an ended attempt's slot is free.
        """
        self.id = id
        self.queues = None if queues is None else list(queues)
        self.served: list[str] = []
        self.types = sorted(types)
        self._process = process
        self._name = name
        self._slot_count = slots
        self._ack_within = ack_within
        self._room = room
        self._executor = executor
        self._suspects = suspects
        self._recorder = recorder
        self._slots = Slots(slots)
        self._ahead = ClaimedAhead(slots, self._hand_back)
        self._unrecorded = 0
        self._changed = asyncio.Event()
        self._claimer = Claimer(engine, broker, self.id, slots, self.types)
        self._stopping = False
        self._attempts: set[asyncio.Task[None]] = set()
        self._running: set[tuple[UUID, int]] = set()
        self._acked_early: set[tuple[UUID, int]] = set()
        self._executing: set[asyncio.Task[None]] = set()

    @property
    def free(self) -> int:
        """Slots in which no handler runs."""
        return self._slots.free

    @property
    def busy(self) -> int:
        return self._slot_count - self._slots.free

    @property
    def running(self) -> list[UUID]:
        """The jobs that run."""
        return [job_id for job_id, _ in self._running]

    def serve(self, queues: Sequence[str]) -> None:
        """The queues to claim from; may be called again whenever they change."""
        self.served = list(queues)
        self._claimer.serve(queues)

    async def listen(self) -> None:
        """Keep the subscription alive until cancelled."""
        await self._claimer.run()

    async def look_for_set_aside(self) -> None:
        """Look for jobs that workers without a handler for them have set aside."""
        await self._claimer.look_for_set_aside()

    async def claim_jobs(self) -> None:
        """Claim and run jobs until `stop`."""
        while limit := await self._claimable():
            try:
                deliveries = await self._claimer.claim(limit)
            except LedgerUnavailable as error:
                logs.outage("claim_failed", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Exception:
                log.exception("claim_failed")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for delivery in deliveries:
                self._running.add(_attempt_of(delivery))
                if self._slots.free > 0 and not self._stopping:
                    self._begin(delivery)
                else:
                    self._ahead.add(delivery)
            if len(deliveries) > 1:
                await asyncio.sleep(LINGER_SECONDS)

    async def stop(self) -> None:
        """Claim no more jobs; what was received and not claimed goes back."""
        self._stopping = True
        self._changed.set()
        await self._claimer.stop()

    async def finish_all(self, claiming: "asyncio.Task[None]") -> None:
        """After `stop`: wait for running attempts however long they take. What has not begun goes back at once."""
        await asyncio.wait([claiming])
        self._hand_back(self._ahead.take_all())
        while self._attempts:
            await asyncio.wait(set(self._attempts))

    async def finish(self, claiming: "asyncio.Task[None]", seconds: float, at_once: asyncio.Event) -> None:
        """Wait so many `seconds` for running attempts, but not after `at_once` is set; then hand back the rest."""
        deadline = asyncio.get_running_loop().time() + seconds
        await asyncio.wait([claiming], timeout=max(seconds / 2, 1))
        self._hand_back(self._ahead.take_all())
        hurrying = asyncio.create_task(at_once.wait())
        while self._attempts and not hurrying.done() and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait({*self._attempts, hurrying}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if self._executing:
            log.info("jobs_handed_back", count=len(self._executing))
        for task in set(self._executing):
            task.cancel()
        if self._attempts:
            await asyncio.wait(set(self._attempts), timeout=HAND_BACK_SECONDS)

    async def beat(self, conn: AsyncConnection, blocked: str | None = None) -> None:
        """Write that the lane is alive, and what blocks its event loop, as JSON text. Any thread may call it.

        When it stops or is blocked it offers only the slots that are in use, so that the limiter admits no more jobs
        for it. The caller commits.
        """
        slots = len(self._running) if self._stopping or blocked else self._slot_count
        await workers.heartbeat(
            conn, self.id, self._name, slots=slots, queues=self.queues, types=self.types, blocked=blocked,
            process=self._process,
        )  # fmt: skip

    async def unknown_claims(self, conn: AsyncConnection) -> list[RunningAttempt]:
        """Open attempts of this lane that do not run here."""
        found = await workers.running_attempts_of(conn, self.id, UNKNOWN_SECONDS, len(self._running) + MAX_BATCH)
        return [one for one in found if (one.job_id, one.attempt) not in self._running]

    async def end_cancelled(self, conn: AsyncConnection) -> None:
        """End the attempts whose jobs were cancelled."""
        for job_id, attempt in await cancellation.requested(conn, self.id):
            self._executor.cancel(job_id, attempt)
            self._suspects.cancel(job_id, attempt)

    async def _claimable(self) -> int:
        """Wait until jobs can be claimed. Returns how many; 0 once the lane stops."""
        while not self._stopping:
            self._changed.clear()
            limit = min(self._slots.free + self._ahead.room, MAX_BATCH)
            if limit and self._unrecorded < MOST_UNRECORDED:
                return limit
            await self._changed.wait()
        return 0

    def _begin(self, delivery: Delivery) -> None:
        self._slots.take()
        self._executor.measurements.started(delivery.claim.job, delivery.claim.waited)
        self._start(self._attempt(delivery))

    def _hand_back(self, deliveries: Iterable[Delivery]) -> None:
        """Hand back jobs that have not begun: none of their attempts is charged."""
        for delivery in deliveries:
            self._start(self._record(delivery, transitions.handed_back(running_attempt(delivery.claim, None))))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    async def _attempt(self, delivery: Delivery) -> None:
        """Run the job, commit its outcome, ack its message."""
        loop = asyncio.get_running_loop()
        began, has_slot = loop.time(), True
        early = loop.call_later(self._ack_within, self._ack_early, delivery)
        try:
            with tracing.processing(delivery.claim.job, delivery.claim.traceparent) as span:
                transition = await self._execute(delivery)
                if transition is not None:
                    tracing.ended(span, transition.outcome)
                self._ahead.count_ended(loop.time() - began)
                has_slot = self._recorder.has_transaction(delivery.claim.lease)
                if not has_slot:
                    self._room(self._slot_is_free)
                await self._record(delivery, transition)
        finally:
            early.cancel()
            self._acked_early.discard(_attempt_of(delivery))
            self._running.discard(_attempt_of(delivery))
            if has_slot:
                self._room(self._slot_is_free)

    async def _record(self, delivery: Delivery, transition: Transition | None) -> None:
        self._unrecorded += 1
        try:
            if transition is not None:
                await self._recorder.record(transition)
            await self._ack(delivery)
        finally:
            self._unrecorded -= 1
            self._running.discard(_attempt_of(delivery))
            self._changed.set()

    def _slot_is_free(self) -> None:
        self._slots.give_back()
        if not self._stopping and (delivery := self._ahead.take()):
            self._begin(delivery)
        self._changed.set()

    def _ack_early(self, delivery: Delivery) -> None:
        """Ack before the broker's consumer timeout. From now on only the lease keeps the job."""
        self._acked_early.add(_attempt_of(delivery))
        self._start(self._claimer.ack([delivery]))

    async def _ack(self, delivery: Delivery) -> None:
        """Ack once: a second ack of the same delivery tag is an error that closes the channel."""
        if _attempt_of(delivery) not in self._acked_early:
            await self._claimer.ack([delivery])

    async def _execute(self, delivery: Delivery) -> Transition | None:
        task = asyncio.current_task()
        assert task is not None
        self._executing.add(task)
        try:
            runner = self._suspects if self._suspects.include(delivery.claim) else self._executor
            return await runner.run(delivery.claim)
        finally:
            self._executing.discard(task)


def _attempt_of(delivery: Delivery) -> tuple[UUID, int]:
    return delivery.claim.job.id, delivery.claim.job.attempt
