"""A worker: its lanes claim jobs and run them; it registers its types and stops its lanes.

A worker can die at any point and no job is lost. Before the claim commits, the message is delivered again. After it,
the lease expires and the rescuer ends the attempt. After the outcome commits, a redelivered message is stale.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import logs, process
from accepted.broker.base import Broker
from accepted.concurrency import cancel_requested, set_within
from accepted.domain import transitions
from accepted.domain.ids import new_id
from accepted.domain.job import WEBHOOK_QUEUE
from accepted.errors import LedgerUnavailable, WorkerExhausted
from accepted.handler import Handler
from accepted.metrics import WORKER_SLOTS
from accepted.services.monitoring.presence import Report
from accepted.services.monitoring.statistics import REPORT_EVERY
from accepted.storage import job_types, queue_tenants, queues, workers
from accepted.storage.db import migrate
from accepted.storage.db.engine import done_when_available, reading, transaction
from accepted.storage.db.notifications import Listener
from accepted_worker.attempt.handler_call import task_factory
from accepted_worker.runtime.executor import Executor
from accepted_worker.runtime.heartbeats import Heartbeats
from accepted_worker.runtime.lane import HAND_BACK_SECONDS, Lane
from accepted_worker.runtime.recording import Recorder
from accepted_worker.runtime.suspects import Suspects
from accepted_worker.stop_signals import StopOrders

FIND_QUEUES_SECONDS = 2.0
"""Seconds between polls for new queues, when no notification of one comes."""

FIND_SET_ASIDE_SECONDS = 1.0
"""Seconds between polls for jobs that workers without a handler for them have set aside."""

FIND_CANCELS_SECONDS = 0.4
"""Seconds between polls for cancels of running jobs. Together with the second that a handler has to clean up, less than
the 2 s in which a running job must be cancelled."""

DELIVERY_SLOTS = 200
"""Slots for deliveries. They wait for receivers and cost next to nothing, so this is a bound on connections and memory,
not on work. How many of them one receiver gets is for the limiter (docs/waiting.md)."""

Work = Callable[[], Awaitable[None]]

log = structlog.get_logger(__name__)


class Worker:
    """Serves `queue_names` with `concurrency` slots; without names, every queue but those for other types only.

    Deliveries come on a queue of their own, and have `DELIVERY_SLOTS`.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        broker: Broker,
        handlers: dict[str, Handler],
        executor: Executor,
        suspects: Suspects,
        *,
        queue_names: Sequence[str],
        concurrency: int,
        lease_ttl: float,
        shutdown_grace: float,
        ack_within: float,
        blocked_limit: float | None,
        database_url: str,
        orders: StopOrders | None = None,
    ) -> None:
        """After `stop`, `orders` may still say to hand back at once what runs."""
        self._engine = engine
        self._handlers = handlers
        self._executor = executor
        self._suspects = suspects
        self._queue_names = list(queue_names)
        self._recorder = Recorder(engine, broker, executor.tools, executor.measurements)
        self.id = new_id()
        self._lanes = self._lanes_of(broker, concurrency, ack_within)
        WORKER_SLOTS.labels("busy").set_function(lambda: self._lanes[0].busy)
        WORKER_SLOTS.labels("free").set_function(lambda: self._lanes[0].free)
        self._heartbeats = Heartbeats(engine, broker, self._lanes, lease_ttl, blocked_limit)
        self._look_for_lost_every = lease_ttl / 3
        self._grace = shutdown_grace
        self._queue_named = asyncio.Event()
        self._listener = Listener(database_url, queue_tenants.NEW_QUEUE_CHANNEL, lambda _: self._queue_named.set())
        self._stopping = asyncio.Event()
        self._orders = orders or StopOrders()
        self._claims_no_more = asyncio.Event()
        self._exhausted = False

    def stop(self) -> None:
        """Claim no more jobs. `run` returns when the running ones have finished or are handed back."""
        self._stopping.set()
        self._claims_no_more.set()

    def drain(self) -> None:
        """Claim no more jobs. `run` returns when the running ones have finished, unless `stop` ends that."""
        self._claims_no_more.set()

    def report(self) -> Report:
        """What the worker says of itself: the queues that it serves, and how recent attempts ended."""
        queues = sorted({queue for lane in self._lanes for queue in lane.served})
        return Report(queues=queues, outcomes=self._executor.outcomes.recent())

    async def run(self) -> None:
        """Work until `stop` is called. Raises `WorkerExhausted` at the end if the process has to be replaced."""
        asyncio.get_running_loop().set_task_factory(task_factory)
        if registered := await done_when_available(self._register, self._stopping.is_set):
            async with self._heartbeats.sent():
                await self._serve()
        self._executor.stop()
        await self._recorder.close()
        if registered:
            await self._retire()
        if self._exhausted:
            raise WorkerExhausted("too many handlers outlived their attempts; this worker has to be started anew")

    async def _serve(self) -> None:
        background = [
            asyncio.create_task(self._every(self._look_for_lost_every, self._hand_back_unknown)),
            asyncio.create_task(self._every(FIND_QUEUES_SECONDS, self._find_queues, self._queue_named)),
            *(
                asyncio.create_task(self._every(FIND_SET_ASIDE_SECONDS, lane.look_for_set_aside))
                for lane in self._lanes
            ),
            asyncio.create_task(self._stop_when_exhausted()),
            asyncio.create_task(self._every(FIND_CANCELS_SECONDS, self._cancel_requested)),
            asyncio.create_task(self._every(REPORT_EVERY, self._report)),
            *(asyncio.create_task(lane.listen()) for lane in self._lanes),
        ]
        if not self._queue_names:
            background.append(asyncio.create_task(self._listener.run()))
        claiming = [asyncio.create_task(lane.claim_jobs()) for lane in self._lanes]
        if not self._claims_no_more.is_set():
            log.info(
                "worker_ready",
                worker_id=str(self.id),
                types=sorted(self._handlers),
                open_files=process.descriptor_limit(),
            )
        await self._claims_no_more.wait()
        await asyncio.gather(*(lane.stop() for lane in self._lanes))
        if not self._stopping.is_set():
            await self._drained(claiming)
        seconds = max(self._grace - HAND_BACK_SECONDS, 0)
        self._say_what_it_waits_for(seconds)
        if not self._orders.interrupted.is_set():
            background.append(asyncio.create_task(self._say_again(seconds)))
        lanes = zip(self._lanes, claiming, strict=True)
        await asyncio.gather(*(lane.finish(task, seconds, self._orders.at_once) for lane, task in lanes))
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)

    def _say_what_it_waits_for(self, seconds: float) -> None:
        running = sorted(str(job_id) for lane in self._lanes for job_id in lane.running)
        log.info("worker_stopping", waits_for=running[:10], jobs=len(running), seconds=seconds, at_once="second SIGINT")

    async def _say_again(self, seconds: float) -> None:
        """At the first Ctrl-C, if something else has stopped the worker, such as a reload."""
        await self._orders.interrupted.wait()
        self._say_what_it_waits_for(seconds)

    async def _drained(self, claiming: "list[asyncio.Task[None]]") -> None:
        """Return when the running jobs have finished, or when the worker is to stop within its grace after all."""
        log.info("worker_draining", worker_id=str(self.id), jobs=sum(len(lane.running) for lane in self._lanes))
        lanes = zip(self._lanes, claiming, strict=True)
        ends: list[asyncio.Future[Any]] = [
            asyncio.gather(*(lane.finish_all(task) for lane, task in lanes)),
            asyncio.create_task(self._stopping.wait()),
        ]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)

    def _lanes_of(self, broker: Broker, concurrency: int, ack_within: float) -> list[Lane]:
        """The lane of the handlers, if the worker serves a queue of theirs, and that of deliveries, if it serves it.

        The first one has the id of the worker, so that attempts name what `GET /workers` shows.
        """
        internal = {name for name, handler in self._handlers.items() if handler.type.internal}
        named = self._queue_names
        delivers = bool(internal) and (not named or WEBHOOK_QUEUE in named)
        others = [queue for queue in named if not (delivers and queue == WEBHOOK_QUEUE)]
        lane = partial(
            Lane, self._engine, broker, self._executor, self._suspects, self._recorder, process=self.id,
            name=f"{socket.gethostname()}:{os.getpid()}", ack_within=ack_within,
        )  # fmt: skip
        lanes = []
        if others or not named:
            types, room = self._handlers.keys() - internal, self._executor.when_there_is_room
            lanes.append(lane(id=self.id, queues=others or None, types=types, slots=concurrency, room=room))
        if delivers:
            id = new_id() if lanes else self.id
            lanes.append(lane(id=id, queues=[WEBHOOK_QUEUE], types=internal, slots=DELIVERY_SLOTS, room=_at_once))
        return lanes

    async def _stop_when_exhausted(self) -> None:
        """Orphans do not count while the worker ends anyway."""
        await self._executor.exhausted.wait()
        if not self._claims_no_more.is_set():
            log.error("worker_exhausted", worker_id=str(self.id))
            self._exhausted = True
            self.stop()

    async def _register(self) -> None:
        await migrate.check_at_start(self._engine)
        async with transaction(self._engine) as conn:
            await job_types.register(conn, [handler.type for handler in self._handlers.values()])
            for lane in self._lanes:
                await lane.beat(conn)
            await conn.commit()
        await self._find_queues()

    async def _hand_back_unknown(self) -> None:
        async with reading(self._engine) as conn:
            lost = [running for lane in self._lanes for running in await lane.unknown_claims(conn)]
        if lost:
            log.warning("unknown_claims_handed_back", count=len(lost))
            await asyncio.gather(*(self._recorder.record(transitions.handed_back(running)) for running in lost))

    async def _cancel_requested(self) -> None:
        busy = [lane for lane in self._lanes if lane.running]
        if not busy:
            return
        async with reading(self._engine) as conn:
            for lane in busy:
                await lane.end_cancelled(conn)

    async def _find_queues(self) -> None:
        for lane in self._lanes:
            lane.serve(lane.queues if lane.queues is not None else await self._all_queues(lane.types))

    async def _all_queues(self, types: Sequence[str]) -> list[str]:
        """Every queue that jobs of these types may come on."""
        async with reading(self._engine) as conn:
            found = set(await queues.served_by(conn, types))
        return sorted((found | {self._handlers[each].type.queue for each in types}) - {WEBHOOK_QUEUE})

    async def _report(self) -> None:
        await self._executor.measurements.report(self._engine)

    async def _retire(self) -> None:
        try:
            await self._report()
            async with transaction(self._engine) as conn:
                for lane in self._lanes:
                    await workers.retire(conn, lane.id)
                await conn.commit()
        except LedgerUnavailable as error:
            logs.outage("retire_failed", error)

    async def _every(self, seconds: float, work: Work, or_at_once: asyncio.Event | None = None) -> None:
        """Call `work` every so many `seconds`, and when `or_at_once` is set."""
        notified = or_at_once or asyncio.Event()
        while not cancel_requested():
            await set_within(seconds, notified)
            notified.clear()
            try:
                await work()
            except LedgerUnavailable as error:
                logs.outage("ledger_unavailable", error)
            except Exception:
                log.exception("worker_loop_failed", loop=work.__name__)


def _at_once(go_on: Callable[[], None]) -> None:
    """Deliveries are never orphaned: their slots are free when they end."""
    go_on()
