"""The jobs that one attempt submits: checked at once as POST /jobs checks them, real only with its success."""

from typing import Any
from uuid import UUID

import msgspec

from accepted.domain.failures import InvalidJob
from accepted.domain.job import NewJob
from accepted.errors import Refused
from accepted.services.jobs.checks import JobChecks
from accepted.storage.attempts.claims import Claim
from accepted_worker.attempt.values import child_of

MOST_BYTES = 32 * 2**20
"""Of payloads that one attempt may submit: they are held in the worker, and written in one transaction."""


class FanOut(msgspec.Struct, frozen=True):
    """How far jobs may grow from one root: generations, and jobs in all."""

    depth: int
    jobs: int


class Children:
    """The children of one attempt so far."""

    def __init__(self, claim: Claim, checks: JobChecks, most: FanOut) -> None:
        self._claim = claim
        self._checks = checks
        self._most = most
        self._made: list[NewJob] = []
        self._bytes = 0

    @property
    def made(self) -> tuple[NewJob, ...]:
        return tuple(self._made)

    async def submit(self, body: dict[str, Any]) -> UUID:
        """Check a body of POST /jobs, and keep it for the end of the attempt. Raises `InvalidJob`."""
        parent = self._claim.job
        if parent.depth >= self._most.depth:
            raise InvalidJob(f"children of children beyond {self._most.depth} generations")
        if len(self._made) >= self._most.jobs:
            raise InvalidJob(f"more than {self._most.jobs} jobs from one root")
        child = msgspec.structs.replace(
            await self._checked(body), parent_id=parent.id, root_id=parent.root_id or parent.id, depth=parent.depth + 1
        )
        self._bytes += len(child.payload)
        if self._bytes > MOST_BYTES:
            raise InvalidJob(f"children of one attempt with more than {MOST_BYTES} bytes of payload")
        self._made.append(child)
        return child.id

    async def _checked(self, body: dict[str, Any]) -> NewJob:
        try:
            return await self._checks.check(self._claim.job.tenant, child_of(body), self._claim.traceparent)
        except Refused as refused:
            raise InvalidJob(f"a child of this job is refused: {refused}") from None
