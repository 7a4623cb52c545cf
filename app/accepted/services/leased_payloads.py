"""The payloads of leased jobs: one that does not fit the schema of its type is a dead letter before a client sees it.

A Python worker reads each payload as the handler's own type. HTTP workers have the schema alone, and a job of
`accepted.submit` was not checked by it, nor one whose type has another schema by now.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from accepted import logs
from accepted.domain import json_text
from accepted.domain.failures import FailureClass
from accepted.domain.job import Job
from accepted.errors import Conflict, InvalidRequest, LedgerUnavailable, ResourceNotFound
from accepted.services.job_types.cache import JobTypeCache
from accepted.services.jobs.claiming import LeasedJob
from accepted.services.leases import Leases


class LeasedPayloads:
    """The check, with the types as one API process knows them."""

    def __init__(self, types: JobTypeCache, held: Leases) -> None:
        self._types = types
        self._held = held

    async def fitting(self, jobs: Sequence[LeasedJob]) -> list[LeasedJob]:
        """Those of the jobs whose payload fits. The others fail as `invalid`, with the pointer to each error."""
        return [one for one in jobs if await self._fits(one)]

    async def _fits(self, one: LeasedJob) -> bool:
        """Also where the ledger does not say: the lease is there, and its client may decide."""
        try:
            wrong = await self._wrong(one.job)
            if wrong is not None:
                await self._held.fail(one.job.tenant, one.leased.lease, FailureClass.INVALID, wrong, None)
        except LedgerUnavailable as error:
            logs.outage("payload_not_checked", error, job_id=str(one.job.id))
            return True
        except (Conflict, ResourceNotFound):  # the lease has ended, and the job has gone on without it
            return False
        return wrong is None

    async def _wrong(self, job: Job) -> str | None:
        """What is wrong with the payload; None if it fits, or if there is no such type any more."""
        if not await self._types.knows(job.tenant, job.type):
            return None
        try:
            known = await self._types.get(job.tenant, job.type)
        except InvalidRequest:  # it was deleted just now
            return None
        if known.flaw is not None:
            return None
        await asyncio.sleep(0)  # a schema may take milliseconds, and there may be a hundred jobs
        payload = msgspec.json.decode(job.payload)
        try:
            known.check(payload, json_text.encode(payload))
        except InvalidRequest as refused:
            return f"the payload does not fit its type: {refused}"
        return None
