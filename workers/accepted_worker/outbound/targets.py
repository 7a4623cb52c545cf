"""The circuit breaker of the hosts that `http.request` and `webhook.deliver` call: asked before a call, told after it.

The rows of all hosts are read when a job is about to call one, at most every 0.4 s; a worker without such jobs reads
nothing. Only a deferred host costs a query of its own. A failed call is one small write; a successful one is none,
unless the host has a row. If the ledger is away, hosts are called as usual: their jobs are claimed, and the outcome
can wait for the ledger.
"""

import asyncio
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import logs
from accepted.domain.failures import FailureClass
from accepted.domain.job import WEBHOOK_TYPE, Job
from accepted.domain.network import targets as rules
from accepted.domain.network.targets import AGAINST, CALLING
from accepted.domain.network.urls import UrlRefused
from accepted.domain.retry import MAX_RETRY_AFTER
from accepted.domain.transitions import Transition
from accepted.errors import LedgerUnavailable
from accepted.metrics import TARGETS_DEFERRED
from accepted.services import targets as service
from accepted.storage import targets, webhooks
from accepted.storage.db.engine import reading, transaction
from accepted.storage.targets import TargetHealth, Tried

FRESH = 0.4
"""Seconds for which the rows that were read are used."""

ROWS = 5000
"""Rows read at a time, the newest first. Hosts beyond them count as answering."""

GRACE = 5.0
"""Seconds beyond the timeout of the call for which the worker owns the one try."""

GOODBYE = 0.5
"""Seconds that a stopping worker waits for its last writes."""

DEFAULT_TIMEOUT = 30.0
"""Timeout in seconds of a call whose payload has none: that of `http.request`, and longer than a webhook's."""

log = structlog.get_logger("target")

Key = tuple[str, str]
"""Tenant, and host with port."""


class _Aim(msgspec.Struct):
    """The fields of a payload that matter here."""

    url: str
    timeout: float = DEFAULT_TIMEOUT


@dataclass(frozen=True)
class Call:
    """A job may call its host. `fence` is set if this is the one try of a half-open host."""

    key: Key
    webhook: bool
    fence: datetime | None = None


class Deferred(NamedTuple):
    """A job may not call its host `target`: the error of its attempt, and in how many seconds to try again."""

    kind: FailureClass
    message: str
    wait: float
    target: str


class Targets:
    """The hosts as this worker knows them. Use it on the worker's event loop only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: dict[Key, TargetHealth] = {}
        self._read_at = -FRESH
        self._reading = asyncio.Lock()
        self._queued: dict[Key, tuple[datetime | None, int]] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    async def ask(self, job: Job) -> Call | Deferred | None:
        """Whether this job may call its host now; None for a job that calls none. Raises only `CancelledError`."""
        if job.type not in CALLING:
            return None
        try:
            aim = msgspec.json.decode(job.payload, type=_Aim)
            call = Call((job.tenant, rules.key_of(aim.url)), job.type == WEBHOOK_TYPE)
        except (msgspec.DecodeError, UrlRefused):  # its handler reports it
            return None
        try:
            await self._refresh()
            known = self._known.get(call.key)
            return call if known is None or known.deferred_until is None else await self._try(call, aim)
        except LedgerUnavailable as error:
            logs.outage("targets_unknown", error)
            return call

    def tell(self, call: Call, transition: Transition) -> None:
        """Write how the call ended, in the background: no outcome waits for it."""
        outcome = transition.outcome
        if outcome in AGAINST:
            self._spawn(self._failed(call, FailureClass(outcome), transition.retry_after))
        elif outcome in _SAYS_NOTHING or (call.webhook and outcome == FailureClass.INVALID):
            return  # an invalid webhook may have called no host
        elif call.fence is not None or self._has_failed(call.key):
            self._spawn(self._answers(call))

    async def aclose(self) -> None:
        """Finish writing. Jobs that were not brought forward come when they are due."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=GOODBYE)
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _refresh(self) -> None:
        if time.monotonic() - self._read_at < FRESH:
            return
        async with self._reading:
            if time.monotonic() - self._read_at < FRESH:
                return
            async with reading(self._engine) as conn:
                rows = await targets.everything(conn, ROWS)
            self._known = {(row.tenant, row.host): row for row in rows}
            self._queued = {key: place for key, place in self._queued.items() if key in self._known}
            self._read_at = time.monotonic()

    async def _try(self, call: Call, aim: _Aim) -> Call | Deferred | None:
        """Ask the ledger, because the host may have been released since, or another worker may have the one try.

        A webhook to a URL that is given up passes: its handler ends the job without a call.
        """
        lease = aim.timeout + GRACE
        async with transaction(self._engine) as conn:
            if call.webhook and await webhooks.given_up(conn, call.key[0], aim.url):
                return None
            tried = await targets.try_(conn, *call.key, lease)
            await conn.commit()
        if tried is None or tried.target.deferred_until is None:
            self._known.pop(call.key, None)
            return call
        if tried.fence is not None:
            log.info("target_tried", tenant=call.key[0], host=call.key[1])
            return replace(call, fence=tried.fence)
        return self._deferred(call.key, tried, lease)

    def _deferred(self, key: Key, tried: Tried, lease: float) -> Deferred:
        target = tried.target
        # The time has passed, but another worker won the try: wait for as long as the try may take.
        left = target.deferred_for if target.state == "open" and target.deferred_for is not None else lease
        known = target.reason in FailureClass.__members__.values()
        kind = FailureClass(target.reason) if known else FailureClass.TRANSIENT
        wait = left + self._place(key, target.deferred_until)
        return Deferred(kind, rules.why(key[1], kind, target.failures), wait, key[1])

    def _place(self, key: Key, until: datetime | None) -> float:
        """Seconds behind the first job that this worker defers until that moment."""
        last, count = self._queued.get(key, (None, 0))
        count = count + 1 if last == until else 0
        self._queued[key] = (until, count)
        place = count * rules.ABREAST
        return place if place <= rules.FARTHEST else random.uniform(0, rules.FARTHEST)

    async def _failed(self, call: Call, kind: FailureClass, retry_after: float | None) -> None:
        async with transaction(self._engine) as conn:
            if retry_after:
                now = await targets.defer(conn, *call.key, min(retry_after, MAX_RETRY_AFTER), call.fence)
            else:
                now = await targets.failed(conn, *call.key, kind, call.fence, random.random())
            await conn.commit()
        if now is None:
            return
        self._known[call.key] = now
        if now.deferred_for is not None:
            TARGETS_DEFERRED.labels(now.reason).inc()
            log.warning(
                "target_deferred", tenant=now.tenant, host=now.host, reason=now.reason, failures=now.failures,
                seconds=round(now.deferred_for, 1),
            )  # fmt: skip

    async def _answers(self, call: Call) -> None:
        async with transaction(self._engine) as conn:
            was_deferred = await targets.answers(conn, *call.key, call.fence)
            await conn.commit()
        self._known.pop(call.key, None)
        self._queued.pop(call.key, None)
        if was_deferred:
            woken = await service.wake(self._engine, *call.key)
            log.info("target_answers", tenant=call.key[0], host=call.key[1], released=woken)
            await service.wake_stragglers(self._engine, *call.key)

    def _has_failed(self, key: Key) -> bool:
        """Whether this answer ends a run of failures. An answer from before a deferral does not end that."""
        known = self._known.get(key)
        return known is not None and known.deferred_until is None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(work))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)


_SAYS_NOTHING = frozenset({FailureClass.CRASHED, FailureClass.CANCELLED, "handed_back"})
"""Outcomes that say nothing about the host."""


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except LedgerUnavailable as error:
        logs.outage("target_not_told", error)
