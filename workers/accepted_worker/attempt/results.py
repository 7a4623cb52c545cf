"""What the jobs that an attempt's job needed came to: read when the handler first asks, and once."""

import asyncio
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.domain.failures import LeaseLost
from accepted.domain.references import Lease
from accepted.storage import batches
from accepted.storage.db.engine import reading
from accepted_worker.attempt.asking import until_answered


class Results:
    """For use on the worker's event loop alone."""

    def __init__(self, engine: AsyncEngine, lease: Lease) -> None:
        self._engine = engine
        self._lease = lease
        self._known: dict[str, str] | None = None
        self._reading = asyncio.Lock()

    async def by_ref(self) -> dict[str, Any]:
        """The results by the refs of those jobs. Raises `LeaseLost`."""
        async with self._reading:
            if self._known is None:
                self._known = await until_answered(self._read, self._lease.job_id)
        return {ref: msgspec.json.decode(result) for ref, result in self._known.items()}

    async def _read(self) -> dict[str, str]:
        async with reading(self._engine) as conn:
            found = await batches.results_needed(conn, self._lease)
        if found is None:
            raise LeaseLost
        return found
