"""Submission under limits. A submission that no limit applies to is passed on at once.

Any other takes its share of the quota and the queue first. A known idempotency key takes nothing: its job was counted
when it was accepted. A share that made no new job is given back. If the process dies in between, or the ledger does
not say whether the job is there, the share stays taken.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted import logs
from accepted.domain.job import NewJob
from accepted.domain.tenants import TenantQuota
from accepted.errors import LedgerUnavailable, Refused
from accepted.services.batches.submission import BatchReceipt, BatchSubmission, BatchSubmissions
from accepted.services.jobs.submission import DEADLINE, Receipt, Submission, Submissions
from accepted.services.submission_limits import SubmissionLimits
from accepted.storage.db.engine import reading
from accepted.storage.jobs.idempotency import recall


class _Answer(Protocol):
    @property
    def new(self) -> bool: ...


Answer = TypeVar("Answer", bound=_Answer)


class LimitedSubmissions:
    """Accepts the jobs and batches that the limits let pass."""

    def __init__(
        self, engine: AsyncEngine, limits: SubmissionLimits, submissions: Submissions, batches: BatchSubmissions
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._submissions = submissions
        self._batches = batches

    async def accept(self, submission: Submission) -> tuple[Receipt, TenantQuota | None]:
        """The receipt, and the tenant's quota after it, if it took from one.

        Raises what `Submissions.accept` does, `QueueFull` and `QuotaExceeded`.
        """
        job = submission.job
        if not self._limits.apply_to(job.tenant, (job.queue,)):
            return await self._submissions.accept(submission), None
        return await self._accept_one(job, submission.key, lambda: self._submissions.accept(submission))

    async def accept_by(
        self, insert: Callable[[], Awaitable[Receipt]], job: NewJob
    ) -> tuple[Receipt, TenantQuota | None]:
        """The same for a job that `insert` commits, with more than a submission writes."""
        if not self._limits.apply_to(job.tenant, (job.queue,)):
            return await insert(), None
        return await self._accept_one(job, None, insert)

    async def accept_batch(self, submission: BatchSubmission) -> BatchReceipt:
        """The same for a batch, all or nothing."""
        tenant = submission.batch.tenant
        if not self._limits.apply_to(tenant, submission.queues):
            return await self._batches.accept(submission)
        receipt, quota = await self._accept_limited(
            tenant, submission.key, submission.queues, lambda: self._batches.accept(submission)
        )
        return receipt if quota is None else msgspec.structs.replace(receipt, quota=quota)

    async def _accept_one(
        self, job: NewJob, key: str | None, accept: Callable[[], Awaitable[Receipt]]
    ) -> tuple[Receipt, TenantQuota | None]:
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._accept_limited(job.tenant, key, {job.queue: 1}, accept)
        except TimeoutError:
            raise LedgerUnavailable("timeout") from None

    async def _accept_limited(
        self, tenant: str, key: str | None, jobs: Mapping[str, int], accept: Callable[[], Awaitable[Answer]]
    ) -> tuple[Answer, TenantQuota | None]:
        if key is not None and await self._is_known(tenant, key):
            return await accept(), None
        quota = await self._limits.enter(tenant, jobs)
        try:
            receipt = await accept()
        except Refused:
            await self._give_back(quota, tenant, jobs)
            raise
        finally:
            self._limits.leave(tenant, jobs)
        if not receipt.new:
            await self._give_back(quota, tenant, jobs)
        return receipt, quota

    async def _give_back(self, quota: TenantQuota | None, tenant: str, jobs: Mapping[str, int]) -> None:
        """A failure is logged, not raised: the submission keeps its answer."""
        try:
            if quota is not None:
                await self._limits.give_back(tenant, sum(jobs.values()))
        except LedgerUnavailable as error:
            logs.outage("quota_not_given_back", error, tenant=tenant)

    async def _is_known(self, tenant: str, key: str) -> bool:
        async with reading(self._engine) as conn:
            return bool(await recall(conn, [(tenant, key)]))
