"""Submission under limits: one that a limit concerns takes its share of it first; all others are submitted at once.

A known idempotency key takes nothing: its job was counted when it was accepted. A share that made no new job is given
back. If the process dies in between, or the ledger does not say whether the job is there, the share stays taken.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.tenants import TenantQuota
from accepted.errors import LedgerUnavailable, Refused
from accepted.services.batches.submission import Batches, BatchReceipt, BatchSubmission
from accepted.services.jobs.receipts import Receipt, Submission
from accepted.services.jobs.submission import DEADLINE, Submissions
from accepted.services.limits import Limits
from accepted.storage.db.engine import reading
from accepted.storage.jobs.submission import recall

log = structlog.get_logger(__name__)


class _Answer(Protocol):
    @property
    def new(self) -> bool: ...


Answer = TypeVar("Answer", bound=_Answer)


class Admission:
    """Accepts what the limits let pass."""

    def __init__(self, engine: AsyncEngine, limits: Limits, submissions: Submissions) -> None:
        self._engine = engine
        self._limits = limits
        self._submissions = submissions

    async def job(self, asked: Submission) -> tuple[Receipt, TenantQuota | None]:
        """The receipt, and how the quota stands. Raises what `Submissions.accept` does, and what is over a limit."""
        job = asked.job
        if not self._limits.concern(job.tenant, (job.queue,)):
            return await self._submissions.accept(asked), None
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._through(
                    job.tenant, asked.key, {job.queue: 1}, lambda: self._submissions.accept(asked)
                )
        except TimeoutError:
            raise LedgerUnavailable("timeout") from None

    async def batch(
        self, asked: BatchSubmission, accept: Callable[[], Awaitable[BatchReceipt]]
    ) -> tuple[BatchReceipt, TenantQuota | None]:
        """The same for a batch, which passes whole or not at all."""
        tenant = asked.batch.tenant
        if not self._limits.concern(tenant, asked.queues):
            return await accept(), None
        return await self._through(tenant, asked.key, asked.queues, accept)

    async def _through(
        self, tenant: str, key: str | None, jobs: Mapping[str, int], accept: Callable[[], Awaitable[Answer]]
    ) -> tuple[Answer, TenantQuota | None]:
        if key is not None and await self._known(tenant, key):
            return await accept(), None
        standing = await self._limits.enter(tenant, jobs)
        try:
            receipt = await accept()
        except Refused:
            await self._give_back(standing, tenant, jobs)
            raise
        finally:
            self._limits.leave(jobs)
        if not receipt.new:
            await self._give_back(standing, tenant, jobs)
        return receipt, standing

    async def _give_back(self, standing: TenantQuota | None, tenant: str, jobs: Mapping[str, int]) -> None:
        """If that fails, what was answered stays answered."""
        try:
            if standing is not None:
                await self._limits.give_back(tenant, sum(jobs.values()))
        except LedgerUnavailable as error:
            log.warning("not_given_back", tenant=tenant, error=str(error))

    async def _known(self, tenant: str, key: str) -> bool:
        async with reading(self._engine) as conn:
            return bool(await recall(conn, [(tenant, key)]))


class LimitedBatches:
    """Submission of batches under limits."""

    def __init__(self, admission: Admission, batches: Batches) -> None:
        self._admission = admission
        self._batches = batches

    async def accept(self, asked: BatchSubmission) -> BatchReceipt:
        """As `Batches.accept`; all of a batch passes, or nothing."""
        receipt, standing = await self._admission.batch(asked, lambda: self._batches.accept(asked))
        return receipt if standing is None else msgspec.structs.replace(receipt, standing=standing)
