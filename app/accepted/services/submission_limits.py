"""Limits of submission: quotas of tenants, and the `max_depth` of queues.

Which tenants and queues have a limit is read in the background once a second, so the others cost nothing.

The jobs that wait on a limited queue are counted in the background, too, and what this process has let pass since is
added. At the limit the queue is counted again before a submission is refused. So one process keeps to it exactly;
several together exceed it by at most what the others let pass between two counts.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.concurrency import Coalescer, cancel_requested
from accepted.domain.tenants import TenantQuota
from accepted.errors import LedgerUnavailable, QueueFull, QuotaExceeded
from accepted.storage import queue_load, tenants
from accepted.storage.db.engine import reading, transaction

POLL_EVERY = 1.0
"""Seconds between reads of the limits: a new one may go unnoticed for so long."""

POLL_SHARE = 20
"""Reads take at most 1 part in this many of the time."""

RECOUNT_AFTER = 0.25
"""Seconds before a full queue is counted again, so that a flood of refusals does not become a flood of counts."""

MAX_BATCH = 200
"""Submissions that take from their quotas in one transaction."""

log = structlog.get_logger(__name__)


class SubmissionLimits:
    """The limits, as one API process knows them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._tenants: frozenset[str] = frozenset()
        self._depths = _Depths(engine)
        self._take: Coalescer[str, TenantQuota | None] = Coalescer(self._take_for, max_batch=MAX_BATCH)

    async def run(self) -> None:
        """Read the limits until cancelled. While the ledger is away the last ones read apply."""
        while not cancel_requested():
            started = time.monotonic()
            try:
                await self.refresh()
            except LedgerUnavailable as error:
                log.warning("limits_unknown", error=str(error))
            except Exception:
                log.exception("limits_unknown")
            await asyncio.sleep(max(POLL_EVERY, (time.monotonic() - started) * POLL_SHARE))

    async def refresh(self) -> None:
        """Read the limits, and count the limited queues. Raises `LedgerUnavailable`."""
        async with reading(self._engine) as conn:
            self._tenants = await tenants.tenants_with_quota(conn)
        await self._depths.refresh()

    def apply_to(self, tenant: str, queues: Iterable[str]) -> bool:
        """Whether anything limits a submission of this tenant to these queues."""
        return tenant in self._tenants or self._depths.apply_to(queues)

    async def enter(self, tenant: str, jobs: Mapping[str, int]) -> TenantQuota | None:
        """Let these numbers of jobs pass, by queue. Returns the quota after that; None when the tenant has none.

        Raises `QueueFull` and `QuotaExceeded`. The caller calls `leave` after each call that returns.
        """
        await self._depths.enter(jobs)
        if tenant not in self._tenants:
            return None
        wanted = sum(jobs.values())
        try:
            return await (self._take(tenant) if wanted == 1 else self._take_all(tenant, wanted))
        except BaseException:
            self._depths.leave(jobs)
            raise

    def leave(self, jobs: Mapping[str, int]) -> None:
        """The jobs that entered have been committed or refused."""
        self._depths.leave(jobs)

    async def give_back(self, tenant: str, jobs: int) -> None:
        """Give to the quota what was taken for submissions that made no new job."""
        async with transaction(self._engine) as conn:
            await tenants.give_quota_back(conn, tenant, jobs)
            await conn.commit()

    async def _take_all(self, tenant: str, wanted: int) -> TenantQuota | None:
        async with transaction(self._engine) as conn:
            taken = await tenants.take_quota(conn, tenant, wanted, least=wanted)
            await conn.commit()
        if taken is None:
            return None
        if taken.granted < wanted:
            raise _exceeded(taken.quota, wanted)
        return taken.quota

    async def _take_for(self, submitters: list[str]) -> Sequence[TenantQuota | Exception | None]:
        """One statement for all concurrent submissions of a tenant: the first of them get what is left."""
        taken: dict[str, tenants.TakenQuota | None] = {}
        async with transaction(self._engine) as conn:
            for tenant, wanted in sorted(Counter(submitters).items()):
                taken[tenant] = await tenants.take_quota(conn, tenant, wanted)
            await conn.commit()
        passed: Counter[str] = Counter()
        answers: list[TenantQuota | Exception | None] = []
        for tenant in submitters:
            found = taken[tenant]
            passed[tenant] += 1
            if found is None:
                answers.append(None)
            else:
                granted = passed[tenant] <= found.granted
                answers.append(found.quota if granted else _exceeded(found.quota, 1))
        return answers


class _QueueCount:
    """One queue's count: `passed` jobs since it was taken, of which `pending` may not have been in it."""

    def __init__(self) -> None:
        self.limit = 0
        self.waiting = 0
        self.passed = 0
        self.pending = 0
        self.counted_at = -RECOUNT_AFTER

    def is_full_for(self, jobs: int) -> bool:
        return self.waiting + self.passed + jobs > self.limit

    def update(self, waiting: int, passed: int, pending: int) -> None:
        """`waiting` jobs were counted; `passed` and `pending` are as they were when the count began."""
        self.waiting = waiting
        self.passed += pending - passed


class _Depths:
    """The queues that have a `max_depth`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._counts: dict[str, _QueueCount] = {}

    def apply_to(self, queues: Iterable[str]) -> bool:
        return bool(self._counts) and any(queue in self._counts for queue in queues)

    async def refresh(self) -> None:
        before = {queue: (count.passed, count.pending) for queue, count in self._counts.items()}
        async with reading(self._engine) as conn:
            found = await queue_load.depths(conn)
        known, self._counts = self._counts, {}
        for one in found:
            count = self._counts[one.queue] = known.get(one.queue) or _QueueCount()
            count.limit = one.limit
            count.update(one.waiting, *before.get(one.queue, (0, 0)))

    async def enter(self, jobs: Mapping[str, int]) -> None:
        limited = [(queue, self._counts[queue], wanted) for queue, wanted in jobs.items() if queue in self._counts]
        for queue, count, wanted in limited:
            if count.is_full_for(wanted):
                await self._count_again(queue, count)
        for queue, count, wanted in limited:
            if count.is_full_for(wanted):
                raise QueueFull(f"queue {queue} takes no more than {count.limit} waiting jobs")
        for _, count, wanted in limited:
            count.passed += wanted
            count.pending += wanted

    def leave(self, jobs: Mapping[str, int]) -> None:
        for queue, wanted in jobs.items():
            if queue in self._counts:
                self._counts[queue].pending = max(self._counts[queue].pending - wanted, 0)

    async def _count_again(self, queue: str, count: _QueueCount) -> None:
        now = time.monotonic()
        if now - count.counted_at < RECOUNT_AFTER:
            return
        count.counted_at, passed, pending = now, count.passed, count.pending
        async with reading(self._engine) as conn:
            count.update(await queue_load.waiting(conn, queue, count.limit), passed, pending)


def _exceeded(quota: TenantQuota, wanted: int) -> QuotaExceeded:
    rate = f"{quota.jobs} jobs in {quota.per:g} s"
    if wanted > quota.jobs:
        return QuotaExceeded(f"{wanted} jobs at once are more than the quota of {rate} ever allows", quota, wanted)
    return QuotaExceeded(f"the quota of {rate} is used up: {quota.remaining} are left", quota, wanted)
