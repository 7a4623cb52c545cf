"""Limits of submission: quotas of tenants, and the `max_depth` of queues.

Which tenants and queues have one is read in the background once a second, so the others cost nothing.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.concurrency import Coalescer, cancel_requested
from accepted.domain.tenants import TenantQuota
from accepted.errors import LedgerUnavailable, QuotaExceeded
from accepted.services.depths import Depths
from accepted.storage import tenants
from accepted.storage.db.engine import reading, transaction

LOOK_EVERY = 1.0
"""Seconds between polls of the limits: for so long a new one may go unnoticed."""

SHARE = 20
"""A poll may take one part in so many of the time."""

MOST = 200

log = structlog.get_logger(__name__)


class Limits:
    """The limits of submission, as one API process knows them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._tenants: frozenset[str] = frozenset()
        self._depths = Depths(engine)
        self._take: Coalescer[str, TenantQuota | None] = Coalescer(self._take_for, max_batch=MOST)

    async def run(self) -> None:
        """Poll until cancelled. While the ledger is away the last poll counts."""
        while not cancel_requested():
            started = time.monotonic()
            try:
                await self.refresh()
            except LedgerUnavailable as error:
                log.warning("limits_unknown", error=str(error))
            except Exception:
                log.exception("limits_unknown")
            await asyncio.sleep(max(LOOK_EVERY, (time.monotonic() - started) * SHARE))

    async def refresh(self) -> None:
        """Read which limits there are. Raises `LedgerUnavailable`."""
        async with reading(self._engine) as conn:
            self._tenants = await tenants.tenants_with_quota(conn)
        await self._depths.refresh()

    def concern(self, tenant: str, queues: Iterable[str]) -> bool:
        """Whether anything limits a submission of this tenant to these queues."""
        return tenant in self._tenants or self._depths.concern(queues)

    async def enter(self, tenant: str, jobs: Mapping[str, int]) -> TenantQuota | None:
        """Let so many jobs, by queue, pass; answers how the tenant's quota stands then, if he has one.

        Raises `QueueFull` and `QuotaExceeded`. Every call that returns is followed by `leave`.
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
        """What entered has been answered."""
        self._depths.leave(jobs)

    async def give_back(self, tenant: str, jobs: int) -> None:
        """They were no new jobs after all."""
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
            raise _exceeded(taken.standing, wanted)
        return taken.standing

    async def _take_for(self, submitters: list[str]) -> Sequence[TenantQuota | Exception | None]:
        """One statement for all that one tenant submits at once: the first of them get what there is."""
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
                through = passed[tenant] <= found.granted
                answers.append(found.standing if through else _exceeded(found.standing, 1))
        return answers


def _exceeded(standing: TenantQuota, wanted: int) -> QuotaExceeded:
    quota = f"{standing.jobs} jobs in {standing.per:g} s"
    if wanted > standing.jobs:
        return QuotaExceeded(f"{wanted} jobs at once are more than the quota of {quota} ever allows", standing, wanted)
    return QuotaExceeded(f"the quota of {quota} is used up: {standing.remaining} are left", standing, wanted)
