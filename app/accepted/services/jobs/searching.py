"""A search for jobs that answers in time: it looks as far as it comes, and says where it stopped."""

import time
from collections.abc import Collection
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.job import LARGE, Job
from accepted.storage.jobs import searching
from accepted.storage.jobs.searching import JobFilter, SearchPlan, SearchStep

SEARCH_SECONDS = 0.4
"""After this time no further step begins. An answer comes within a second (contract section 4)."""

ENOUGH = 50_000
"""Rows, after which no further step begins: less than 0.1 s on a machine with nothing else to do."""

STEP_SECONDS = 0.1
"""What a step should take at most: each is as large as the one before lets expect."""

FIRST_STEP = 1000
"""Rows of the first step, which takes 2 ms or so, and is all that a small tenant needs."""

LARGEST_STEP = 20_000
"""Rows."""

GROWTH = 4.0


class JobSearch:
    """Jobs of a tenant, newest first, in pages. `stopped_at` is set when its time is up, or it has looked at `ENOUGH`.

    It is the lowest id that was looked at: another search goes on below it.
    """

    def __init__(self, conn: AsyncConnection, tenant: str, wanted: JobFilter, include: Collection[str] = LARGE) -> None:
        self.stopped_at: UUID | None = None
        self._conn = conn
        self._tenant = tenant
        self._wanted = wanted
        self._include = include
        self._until = time.monotonic() + SEARCH_SECONDS
        self._size = FIRST_STEP
        self._looked_at = 0
        self._plan: SearchPlan | None = None
        self._narrowly = False

    async def below(self, before: UUID | None, limit: int) -> list[Job]:
        """Up to `limit` jobs with ids below `before`; None: from the newest. Fewer: no more are left, or it stopped."""
        found: list[Job] = []
        position = before or searching.TOP
        while True:
            step = await self._step(position, limit - len(found))
            found += step.found
            if step.reached is None or len(found) == limit:
                return found
            position = step.reached
            if time.monotonic() > self._until or self._looked_at >= ENOUGH:
                self.stopped_at = position
                return found

    async def _step(self, before: UUID, limit: int) -> SearchStep:
        if self._plan is None:
            self._plan = await searching.plan(self._conn, self._tenant, self._wanted)
        started = time.monotonic()
        sources = (self._narrowly and self._plan.narrow) or self._plan.every
        step = await searching.step(self._conn, self._plan, sources, before, self._size, limit, self._include)
        self._narrowly = not self._narrowly
        self._looked_at += self._size
        took = max(time.monotonic() - started, 0.001)
        self._size = round(max(FIRST_STEP, min(LARGEST_STEP, self._size * min(GROWTH, STEP_SECONDS / took))))
        return step
