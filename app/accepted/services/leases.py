"""Leases over HTTP: the bodies of the requests, and what the holder of a lease reports.

Outcomes are the same transitions as a Python worker's, behind the same fence. Each lease has a worker row of its own,
which is deleted with the outcome.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import logs
from accepted.broker.base import Broker
from accepted.concurrency import Coalescer
from accepted.domain import transitions
from accepted.domain.failures import FailureClass
from accepted.domain.job import Status
from accepted.domain.references import Lease
from accepted.domain.transitions import RunningAttempt, Transition
from accepted.errors import Conflict, FieldError, InvalidRequest, ResourceNotFound
from accepted.metrics import ATTEMPT_SECONDS, ATTEMPTS, LEASED_TYPES
from accepted.services.jobs import completion
from accepted.services.jobs.requests import Number
from accepted.services.monitoring.statistics import Measurements
from accepted.storage import leases
from accepted.storage.attempts.completion import write_progress
from accepted.storage.db.engine import reading, transaction
from accepted.storage.leases import LeasedAttempt, LeaseHeartbeat

MAX_LEASES = 100
"""Leases in one answer, and from one claim."""

MAX_WAIT = 60.0
"""Seconds for which a request for leases may wait."""

MAX_TYPES = 100

MAX_TEXT = 100_000
"""Characters of a message. Far fewer are kept."""

_OVER = "the lease is lost or settled: the job has gone on without it"


class LeaseRequest(BaseModel):
    """How many jobs, how long to wait for the first, and of which types; without `types`, of any."""

    model_config = ConfigDict(extra="forbid", title="LeaseRequest")

    max: Annotated[StrictInt, Field(ge=1, le=MAX_LEASES)] = 1
    wait: Annotated[Number, Field(ge=0, le=MAX_WAIT, description="seconds")] = 0.0
    types: (
        Annotated[
            list[Annotated[StrictStr, Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=MAX_TYPES)
        ]
        | None
    ) = None


class CompleteRequest(BaseModel):
    """The job has succeeded."""

    model_config = ConfigDict(extra="forbid", title="CompleteRequest")

    result: Any = None


class FailRequest(BaseModel):
    """The attempt has failed. `cancelled` is for a job that is to be cancelled."""

    model_config = ConfigDict(extra="forbid", title="FailRequest")

    class_: Annotated[
        Literal["transient", "rate_limited", "invalid", "auth", "not_found", "timeout", "crashed", "cancelled"],
        Field(alias="class"),
    ]
    message: Annotated[StrictStr, Field(max_length=MAX_TEXT)] = ""
    retry_after: (
        Annotated[Number, Field(ge=0, description="seconds before which it is not tried again; at most a day counts")]
        | None
    ) = None


class ProgressRequest(BaseModel):
    """How far the attempt is."""

    model_config = ConfigDict(extra="forbid", title="ProgressRequest")

    percent: Annotated[StrictInt | StrictFloat, Field(ge=0, le=100)]
    message: Annotated[StrictStr, Field(max_length=MAX_TEXT)] = ""


class HeartbeatRequest(BaseModel):
    """An empty object: the request itself is the heartbeat."""

    model_config = ConfigDict(extra="forbid", title="HeartbeatRequest")


class Leases:
    """What the holder of a lease reports. Each call is for one tenant.

    Raises `ResourceNotFound` for another tenant's lease, and `Conflict` for one that is lost or settled.
    """

    def __init__(self, engine: AsyncEngine, broker: Broker, measurements: Measurements) -> None:
        self._engine = engine
        self._broker = broker
        self.measurements = measurements
        self._record: Coalescer[Transition, bool] = Coalescer(self._settle, max_batch=completion.MAX_BATCH)

    async def complete(self, tenant: str, lease: Lease, result: str) -> None:
        """running -> succeeded with `result` (JSON text).

        Raises `Conflict` for a job that is to be cancelled: it is cancelled, and its result is not kept.
        """
        found = await self._find(tenant, lease)
        if found.cancelled:
            await self._end(found, transitions.cancelled(found.running))
            raise Conflict("the job was cancelled on request: its result is not kept")
        await self._end(found, transitions.succeeded(found.running, result))

    async def fail(
        self, tenant: str, lease: Lease, kind: FailureClass, message: str, retry_after: float | None
    ) -> None:
        """running -> retrying, failed or succeeded, by the class and the type's policy; cancelled if requested."""
        found = await self._find(tenant, lease)
        if not found.cancelled and kind is FailureClass.CANCELLED:
            raise InvalidRequest([FieldError("/class", "nobody asked for this job to be cancelled")])
        await self._end(found, _failure(found, kind, message, retry_after))

    async def heartbeat(self, tenant: str, lease: Lease, progress: str | None = None) -> LeaseHeartbeat:
        """Renew the lease, and write the attempt's progress (JSON text) if there is any."""
        async with transaction(self._engine) as conn:
            if progress is not None:  # first, because outcomes lock the job before the worker, too
                await write_progress(conn, {lease: progress})
            beat = await leases.heartbeat(conn, tenant, lease)
            if beat is not None:
                await conn.commit()
        if beat is None:
            await self._find(tenant, lease)
            raise Conflict(_OVER)
        return beat

    async def hand_back(self, undelivered: Sequence[Lease]) -> None:
        """running -> queued, with the attempt not charged, for leases that reached no client."""
        for lease in undelivered:
            async with reading(self._engine) as conn:
                found = await leases.find(conn, lease)
            if found is not None and found.open:
                await self._record(transitions.handed_back(found.running))

    async def _find(self, tenant: str, lease: Lease) -> LeasedAttempt:
        async with reading(self._engine) as conn:
            found = await leases.find(conn, lease)
        if found is None or found.tenant != tenant or not found.over_http:
            raise ResourceNotFound("no such lease")
        if not found.open:
            raise Conflict(_OVER)
        return found

    async def _end(self, found: LeasedAttempt, transition: Transition) -> None:
        if not await self._record(transition):
            raise Conflict(_OVER)
        note(found, transition, self.measurements)

    async def _settle(self, batch: list[Transition]) -> Sequence[bool]:
        """Of two outcomes of one attempt in a batch, the first counts."""
        first: dict[RunningAttempt, Transition] = {}
        for transition in batch:
            first.setdefault(transition.running, transition)
        once = list(first.values())
        async with transaction(self._engine) as conn:
            applied = await completion.record(conn, self._broker, once)
            counted = [transition for transition, one in zip(once, applied, strict=True) if one]
            await leases.retire(conn, [transition.running.worker_id for transition in counted])
            await conn.commit()
        return [any(transition is one for one in counted) for transition in batch]


def note(found: LeasedAttempt, transition: Transition, measurements: Measurements) -> None:
    """Log the canonical line of an attempt, and count it."""
    seconds = max((datetime.now(UTC) - found.started_at).total_seconds(), 0.0)
    type = LEASED_TYPES.shown_as(found.type)
    ATTEMPTS.labels(type, transition.outcome).inc()
    ATTEMPT_SECONDS.labels(type).observe(seconds)
    series, dead = (found.tenant, found.queue, found.type), transition.status is Status.FAILED
    measurements.ended(series, transition.outcome, seconds, dead=dead)
    logs.attempt(transition, type=found.type, queue=found.queue, seconds=seconds)


def _failure(found: LeasedAttempt, kind: FailureClass, message: str, retry_after: float | None) -> Transition:
    if found.cancelled:
        return transitions.cancelled(found.running)
    if kind is FailureClass.CRASHED:
        return transitions.crashed(found.running, random.random(), message or "its worker reported a crash")
    return transitions.failed(found.running, kind, message, random.random(), retry_after)
