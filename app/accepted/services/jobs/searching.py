"""Searches for jobs that answer in time: they look as far as they come, and say where they stopped."""

import time
from collections.abc import Collection
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from accepted.domain.ids import AFTER_ALL
from accepted.domain.job import LARGE, Job
from accepted.storage.jobs import searching, upcoming
from accepted.storage.jobs.job_filter import JobFilter
from accepted.storage.jobs.searching import SearchPlan, SearchStep
from accepted.storage.jobs.upcoming import Due

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


class SearchPace:
    """How many rows the next step of a search reads, and whether there is to be one."""

    def __init__(self, seconds: float | None = None, enough: float | None = None) -> None:
        self.size = FIRST_STEP
        self._until = time.monotonic() + (SEARCH_SECONDS if seconds is None else seconds)
        self._left = ENOUGH if enough is None else enough
        self._began = 0.0

    @property
    def over(self) -> bool:
        return time.monotonic() > self._until or self._left <= 0

    def begin(self) -> None:
        """A step begins."""
        self._began = time.monotonic()

    def end(self) -> None:
        """A step has ended."""
        self._left -= self.size
        took = max(time.monotonic() - self._began, 0.001)
        self.size = round(max(FIRST_STEP, min(LARGEST_STEP, self.size * min(GROWTH, STEP_SECONDS / took))))


class JobSearch:
    """Jobs of a tenant, newest first, in pages. `stopped_at` is set when its `pace` is over.

    It is the lowest id that was looked at: another search goes on below it.
    """

    def __init__(
        self, conn: AsyncConnection, tenant: str, wanted: JobFilter, include: Collection[str] = LARGE,
        pace: SearchPace | None = None,
    ) -> None:  # fmt: skip
        self.stopped_at: UUID | None = None
        self._conn = conn
        self._tenant = tenant
        self._wanted = wanted
        self._include = include
        self._pace = pace or SearchPace()
        self._plan: SearchPlan | None = None
        self._narrowly = False

    async def below(self, before: UUID | None, limit: int) -> list[Job]:
        """Up to `limit` jobs with ids below `before`; None: from the newest. Fewer: no more are left, or it stopped."""
        found: list[Job] = []
        position = before or AFTER_ALL
        while True:
            step = await self._step(position, limit - len(found))
            found += step.found
            if step.reached is None or len(found) == limit:
                return found
            position = step.reached
            if self._pace.over:
                self.stopped_at = position
                return found

    async def _step(self, before: UUID, limit: int) -> SearchStep:
        if self._plan is None:
            self._plan = await searching.plan(self._conn, self._tenant, self._wanted)
        sources = (self._narrowly and self._plan.narrow) or self._plan.every
        self._pace.begin()
        step = await searching.step(self._conn, self._plan, sources, before, self._pace.size, limit, self._include)
        self._pace.end()
        self._narrowly = not self._narrowly
        return step


class UpcomingSearch:
    """Jobs of a tenant that wait for a moment, the soonest first, in pages. `stopped_at` is as in `JobSearch`."""

    def __init__(self, conn: AsyncConnection, tenant: str, wanted: JobFilter, include: Collection[str]) -> None:
        self.stopped_at: Due | None = None
        self._conn = conn
        self._tenant = tenant
        self._wanted = msgspec.structs.replace(wanted, statuses=wanted.statuses or list(upcoming.STATUSES))
        self._include = frozenset(include)
        self._pace = SearchPace()

    async def behind(self, after: Due | None, limit: int) -> list[tuple[Due, Job]]:
        """Up to `limit` jobs behind `after`; None: from the first. Fewer: no more are left, or it stopped."""
        found: list[tuple[Due, Job]] = []
        while True:
            self._pace.begin()
            size = self._pace.size
            step = await upcoming.step(
                self._conn, self._tenant, self._wanted, after, size, limit - len(found), self._include
            )
            self._pace.end()
            found += step.found
            if step.reached is None or len(found) == limit:
                return found
            after = step.reached
            if self._pace.over:
                self.stopped_at = after
                return found
