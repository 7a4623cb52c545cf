"""Limits of submission: quotas of tenants, and the `max_depth` of queues.

Each process keeps a copy of the limits (`accepted.services.settings_watch`), so what has no limit costs nothing.

Each tenant has the `max_depth` of a queue to itself, so one that fills its part shuts nobody else out. The jobs of a
tenant that wait on a limited queue are counted in the background, and what this process has let pass since is added.
At the limit, and under a new limit, they are counted again before a submission is refused. So one process keeps to it
exactly; several together exceed it by at most what the others let pass between two counts.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import logs
from accepted.concurrency import Coalescer, cancel_requested
from accepted.domain.tenants import TenantQuota
from accepted.errors import FieldError, InvalidRequest, LedgerUnavailable, QueueFull, QuotaExceeded
from accepted.services.settings_watch import SettingsCopy
from accepted.storage import queue_load, tenants
from accepted.storage.db.engine import reading, transaction

COUNT_EVERY = 1.0
"""Seconds between counts of the limited queues in the background."""

COUNT_SHARE = 50
"""These counts take at most 1 part in this many of the time."""

RECOUNT_AFTER = 0.25
"""Seconds before a full queue is counted again, so that a flood of refusals does not become a flood of counts."""

MAX_BATCH = 200
"""Submissions that take from their quotas in one transaction."""

log = structlog.get_logger(__name__)


class SubmissionLimits:
    """The limits, as one API process knows them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._quotas: Mapping[str, int] = {}
        self._depths = _Depths(engine)
        self._copy = SettingsCopy(self._read)
        self._take: Coalescer[str, TenantQuota | None] = Coalescer(self._take_for, max_batch=MAX_BATCH)

    async def run(self) -> None:
        """Count the limited queues until cancelled. While the ledger is away the last limits and counts apply."""
        while not cancel_requested():
            started = time.monotonic()
            try:
                await self._copy.refresh()
                await self._depths.count()
            except LedgerUnavailable as error:
                logs.outage("limits_unknown", error)
            except Exception:
                log.exception("limits_unknown")
            await asyncio.sleep(max(COUNT_EVERY, (time.monotonic() - started) * COUNT_SHARE))

    def forget(self) -> None:
        """The limits have changed: read them again before they are next used."""
        self._copy.forget()

    async def refresh(self) -> None:
        """Read the limits now, and count the limited queues. Raises `LedgerUnavailable`."""
        self.forget()
        await self._copy.refresh()
        await self._depths.count()

    def apply_to(self, tenant: str, queues: Iterable[str]) -> bool:
        """Whether anything may limit a submission of this tenant to these queues."""
        return not self._copy.fresh or tenant in self._quotas or self._depths.apply_to(queues)

    async def enter(self, tenant: str, jobs: Mapping[str, int]) -> TenantQuota | None:
        """Let these numbers of jobs pass, by queue. Returns the quota after that; None when the tenant has none.

        Raises `QueueFull` and `QuotaExceeded`, or `InvalidRequest` for more jobs than a limit ever lets pass at once.
        The caller calls `leave` after each call that returns.
        """
        await self._copy.refresh()
        wanted = sum(jobs.values())
        if wanted > self._quotas.get(tenant, wanted):
            raise _too_large(wanted, f"the tenant's quota never allows more than {self._quotas[tenant]} jobs at once")
        await self._depths.enter(tenant, jobs)
        if tenant not in self._quotas:
            return None
        try:
            return await (self._take(tenant) if wanted == 1 else self._take_all(tenant, wanted))
        except BaseException:
            self._depths.leave(tenant, jobs)
            raise

    def leave(self, tenant: str, jobs: Mapping[str, int]) -> None:
        """The jobs that entered have been committed or refused."""
        self._depths.leave(tenant, jobs)

    async def give_back(self, tenant: str, jobs: int) -> None:
        """Give to the quota what was taken for submissions that made no new job."""
        async with transaction(self._engine) as conn:
            await tenants.give_quota_back(conn, tenant, jobs)
            await conn.commit()

    async def _read(self) -> None:
        async with reading(self._engine) as conn:
            quotas, depths = await tenants.quota_sizes(conn), await queue_load.max_depths(conn)
        self._quotas = quotas
        self._depths.set_limits(depths)

    async def _take_all(self, tenant: str, wanted: int) -> TenantQuota | None:
        async with transaction(self._engine) as conn:
            taken = await tenants.take_quota(conn, tenant, wanted, least=wanted)
            await conn.commit()
        if taken is None:
            return None
        if wanted > taken.quota.jobs:
            raise _too_large(wanted, f"the tenant's quota never allows more than {taken.quota.jobs} jobs at once")
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


class _TenantCount:
    """One tenant's jobs on one queue: `passed` since they were counted, of which `pending` may not have been in it.

    `waiting` is None until they were counted under this limit: a count goes no further than the limit. A limit that
    was read again counts as a new one: meanwhile it may have been another, under which other processes let jobs pass.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.limits_read = 0
        self.waiting: int | None = None
        self.passed = 0
        self.pending = 0
        self.counted_at = -RECOUNT_AFTER
        self.counting = asyncio.Lock()

    def is_full_for(self, jobs: int) -> bool:
        return self.waiting is None or self.waiting + self.passed + jobs > self.limit

    def set_limit(self, limit: int) -> None:
        self.limit, self.waiting = limit, None
        self.limits_read += 1

    def update(self, waiting: int, limits_read: int, passed: int, pending: int) -> None:
        """`waiting` jobs were counted. The rest is as it was when the count began; under another limit it is void."""
        if limits_read == self.limits_read:
            self.waiting = waiting
            self.passed += pending - passed


class _Depths:
    """The queues that have a `max_depth`, and the tenants that have submitted to them here."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._limits: Mapping[str, int] = {}
        self._counts: dict[tuple[str, str], _TenantCount] = {}

    def apply_to(self, queues: Iterable[str]) -> bool:
        return bool(self._limits) and any(queue in self._limits for queue in queues)

    def set_limits(self, limits: Mapping[str, int]) -> None:
        self._limits = limits
        self._counts = {pair: count for pair, count in self._counts.items() if pair[0] in limits}
        for (queue, _), count in self._counts.items():
            count.set_limit(limits[queue])

    async def count(self) -> None:
        if not self._counts:
            return
        before = {pair: (count, count.limits_read, count.passed, count.pending) for pair, count in self._counts.items()}
        async with reading(self._engine) as conn:
            found = await queue_load.depths(conn, sorted({queue for queue, _ in before}))
        for pair, (count, limits_read, passed, pending) in before.items():
            count.update(found.get(pair, 0), limits_read, passed, pending)

    async def enter(self, tenant: str, jobs: Mapping[str, int]) -> None:
        limited = [(queue, self._count_of(queue, tenant), jobs[queue]) for queue in jobs if queue in self._limits]
        for queue, count, wanted in limited:
            if wanted > count.limit:
                raise _too_large(wanted, f"queue {queue} never takes more than {count.limit} waiting jobs of a tenant")
        for queue, count, wanted in limited:
            if count.is_full_for(wanted):
                await self._count_again(queue, tenant, count)
        for queue, count, wanted in limited:
            if count.is_full_for(wanted):
                raise QueueFull(f"queue {queue} takes no more than {count.limit} waiting jobs of a tenant")
        for _, count, wanted in limited:
            count.passed += wanted
            count.pending += wanted

    def leave(self, tenant: str, jobs: Mapping[str, int]) -> None:
        for queue, wanted in jobs.items():
            if count := self._counts.get((queue, tenant)):
                count.pending = max(count.pending - wanted, 0)

    def _count_of(self, queue: str, tenant: str) -> _TenantCount:
        count = self._counts.get((queue, tenant))
        if count is None:
            count = self._counts[queue, tenant] = _TenantCount(self._limits[queue])
        return count

    async def _count_again(self, queue: str, tenant: str, count: _TenantCount) -> None:
        async with count.counting:
            now = time.monotonic()
            if count.waiting is not None and now - count.counted_at < RECOUNT_AFTER:
                return
            count.counted_at = now
            limits_read, passed, pending = count.limits_read, count.passed, count.pending
            async with reading(self._engine) as conn:
                waiting = await queue_load.waiting(conn, queue, tenant, count.limit)
            count.update(waiting, limits_read, passed, pending)


def _exceeded(quota: TenantQuota, wanted: int) -> QuotaExceeded:
    rate = f"{quota.jobs} jobs in {quota.per:g} s"
    return QuotaExceeded(f"the quota of {rate} is used up: {quota.remaining} are left", quota, wanted)


def _too_large(wanted: int, limit: str) -> InvalidRequest:
    """No later time would do: only a smaller batch, or another limit."""
    return InvalidRequest([FieldError("", f"{limit}, and these are {wanted}")])
