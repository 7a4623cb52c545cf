"""What the holder of a lease over HTTP says of it: that it lives, how far it is, and what became of it.

Outcomes are the same transitions as a Python worker's, behind the same fence. The lease's worker row goes with them.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.broker.base import Broker
from accepted.concurrency import Coalescer
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.references import Lease
from accepted.domain.transitions import RunningAttempt, Transition
from accepted.errors import Conflict, FieldError, InvalidRequest, ResourceNotFound
from accepted.metrics import ATTEMPT_SECONDS, ATTEMPTS
from accepted.services.jobs import completion
from accepted.services.queues import RunTimes
from accepted.storage import leases
from accepted.storage.attempts import recorded
from accepted.storage.db.engine import reading, transaction
from accepted.storage.leases import Beat, Found

log = structlog.get_logger("attempt")


class Leases:
    """What the holder of a lease reports. Each call is for one tenant.

    Raises `ResourceNotFound` for another tenant's lease, and `Conflict` for one that is lost or settled.
    """

    def __init__(self, engine: AsyncEngine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker
        self.run_times = RunTimes()
        self._record: Coalescer[Transition, bool] = Coalescer(self._settle, max_batch=completion.MAX_BATCH)

    async def complete(self, tenant: str, lease: Lease, result: str) -> None:
        """running -> succeeded with `result` (JSON text). A job that is to be cancelled is, and its result refused."""
        found = await self._find(tenant, lease)
        if found.cancelled:
            await self._end(found, transitions.cancelled(found.running))
            raise Conflict("the job was cancelled on request: its result is not kept")
        await self._end(found, transitions.succeeded(found.running, result))

    async def fail(
        self, tenant: str, lease: Lease, kind: FailureClass, message: str, retry_after: float | None
    ) -> None:
        """running -> retrying, failed or succeeded, as the class and the type have it; cancelled if that was asked."""
        found = await self._find(tenant, lease)
        if not found.cancelled and kind is FailureClass.CANCELLED:
            raise InvalidRequest([FieldError("/class", "nobody asked for this job to be cancelled")])
        await self._end(found, _failure(found, kind, message, retry_after))

    async def heartbeat(self, tenant: str, lease: Lease, said: str | None = None) -> Beat:
        """The lease is good for longer; with what the attempt says of its progress (JSON text), if anything."""
        async with transaction(self._engine) as conn:
            if said is not None:  # first, for outcomes lock the job before the worker too
                await recorded.write_progress(conn, {lease: said})
            beat = await leases.heartbeat(conn, tenant, lease)
            if beat is not None:
                await conn.commit()
        if beat is None:
            await self._find(tenant, lease)
            raise Conflict(_OVER)
        return beat

    async def hand_back(self, given: Sequence[Lease]) -> None:
        """running -> queued, unburned, for leases that reached nobody."""
        for lease in given:
            async with reading(self._engine) as conn:
                found = await leases.find(conn, lease)
            if found is not None and found.open:
                await self._record(transitions.handed_back(found.running))

    async def _find(self, tenant: str, lease: Lease) -> Found:
        async with reading(self._engine) as conn:
            found = await leases.find(conn, lease)
        if found is None or found.tenant != tenant or not found.over_http:
            raise ResourceNotFound("no such lease")
        if not found.open:
            raise Conflict(_OVER)
        return found

    async def _end(self, found: Found, transition: Transition) -> None:
        if not await self._record(transition):
            raise Conflict(_OVER)
        self.run_times.count(found.queue, note(found, transition))

    async def _settle(self, batch: list[Transition]) -> Sequence[bool]:
        """Of two outcomes of one attempt the first counts, as it would had the other come later."""
        first: dict[RunningAttempt, Transition] = {}
        for transition in batch:
            first.setdefault(transition.running, transition)
        once = list(first.values())
        async with transaction(self._engine) as conn:
            done = await completion.record(conn, self._broker, once)
            counted = [transition for transition, one in zip(once, done, strict=True) if one]
            await leases.retire(conn, [transition.running.worker_id for transition in counted])
            await conn.commit()
        return [any(transition is one for one in counted) for transition in batch]


def note(found: Found, transition: Transition) -> float:
    """The canonical line of an attempt, and its metrics. Returns for how many seconds it ran."""
    seconds = max((datetime.now(UTC) - found.started_at).total_seconds(), 0.0)
    ATTEMPTS.labels(found.type, transition.outcome).inc()
    ATTEMPT_SECONDS.labels(found.type).observe(seconds)
    log.info(
        "attempt",
        job_id=str(found.running.job_id),
        type=found.type,
        queue=found.queue,
        attempt=found.running.attempt,
        outcome=transition.outcome,
        status=transition.status,
        duration_ms=round(seconds * 1000, 1),
    )
    return seconds


_OVER = "the lease is lost or settled: the job has gone on without it"


def _failure(found: Found, kind: FailureClass, message: str, retry_after: float | None) -> Transition:
    if found.cancelled:
        return transitions.cancelled(found.running)
    if kind is FailureClass.CRASHED:
        return transitions.crashed(found.running, random.random(), message or "its worker said that it crashed")
    return transitions.failed(found.running, kind, message, random.random(), retry_after)
