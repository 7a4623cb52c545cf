"""Jobs related to the one that runs: the children that it submits, and the results of those that it depends on."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.failures import InvalidJob, LeaseLost
from accepted.domain.job import NewJob
from accepted.errors import Refused
from accepted.services.jobs.checks import JobChecks
from accepted.storage.attempts.claims import Claim
from accepted.storage.db.engine import retry_until_available
from accepted.tracing.context import traceparent
from accepted_worker.attempt.records import AttemptRecords
from accepted_worker.attempt.values import child_of

MAX_CHILDREN_BYTES = 32 * 2**20
"""Bytes of payloads that one attempt may submit, because the worker keeps them and writes them in one transaction."""


class FanOut(msgspec.Struct, frozen=True):
    """How many generations, and how many jobs in all, may come from one root."""

    depth: int
    jobs: int


class Children:
    """The jobs that one attempt submits. They are checked at once, and become real with its success."""

    def __init__(self, claim: Claim, checks: JobChecks, limits: FanOut) -> None:
        self._claim = claim
        self._checks = checks
        self._limits = limits
        self._submitted: list[NewJob] = []
        self._bytes = 0

    @property
    def submitted(self) -> tuple[NewJob, ...]:
        return tuple(self._submitted)

    async def submit(self, body: dict[str, Any]) -> UUID:
        """Check a body of POST /jobs and keep the job until the attempt ends; returns its id. Raises `InvalidJob`."""
        parent = self._claim.job
        if parent.depth >= self._limits.depth:
            raise InvalidJob(f"more than {self._limits.depth} generations of children")
        if len(self._submitted) >= self._limits.jobs:
            raise InvalidJob(f"more than {self._limits.jobs} jobs from one root")
        child = msgspec.structs.replace(
            await self._checked(body), parent_id=parent.id, root_id=parent.root_id or parent.id, depth=parent.depth + 1
        )
        self._bytes += len(child.payload)
        if self._bytes > MAX_CHILDREN_BYTES:
            raise InvalidJob(f"children of one attempt with more than {MAX_CHILDREN_BYTES} bytes of payload")
        self._submitted.append(child)
        return child.id

    async def _checked(self, body: dict[str, Any]) -> NewJob:
        try:
            return await self._checks.check(
                self._claim.job.tenant, child_of(body), traceparent(self._claim.traceparent)
            )
        except Refused as refused:
            raise InvalidJob(f"a child of this job is refused: {refused}") from None


class DependencyResults:
    """The results of the jobs that an attempt's job depends on. Only a job of a workflow has any."""

    def __init__(self, records: AttemptRecords, claim: Claim) -> None:
        self._records = records
        self._lease = claim.lease
        self._results: dict[str, str] | None = None if claim.in_workflow else {}
        self._reading = asyncio.Lock()

    async def read(self) -> None:
        """Read them, once for the attempt. On the worker's event loop. Raises `LeaseLost`."""
        async with self._reading:
            if self._results is None:
                self._results = await retry_until_available(self._read, "handler_waits_for_ledger", self._lease.job_id)

    def by_ref(self) -> dict[str, Any]:
        """The results by the refs of those jobs, once they are read. From any thread."""
        assert self._results is not None
        return {ref: msgspec.json.decode(result) for ref, result in self._results.items()}

    async def _read(self) -> dict[str, str]:
        found = await self._records.results_needed(self._lease)
        if found is None:
            raise LeaseLost
        return found
