"""Reading jobs, and waiting for one to change, at a cost to the ledger that does not grow with the clients.

Reads made in one turn of the event loop are one query. Every transaction that changes jobs notifies those who wait for
them. Because a notification may be lost, some are read again every few seconds, in one query: all of them if they are
few, and else those that were not read for the longest time.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.concurrency import Coalescer
from accepted.domain.job import Job
from accepted.errors import LedgerUnavailable
from accepted.storage.db import notifications
from accepted.storage.db.engine import reading
from accepted.storage.db.notifications import Listener
from accepted.storage.jobs.reading import Attempt, attempts_of, jobs_by_id

POLL_EVERY = 2.0
"""Seconds between two polls."""

POLLED = 200
"""Jobs in a poll. PostgreSQL loses no notification while the connection lives, and all jobs are read after it was
replaced: so polls are a safeguard, which must not cost more with each client that waits."""

MAX_BATCH = 500
"""Jobs in one query."""


class JobWatcher:
    """Reads jobs by id, and waits for them, for all requests of an API process."""

    def __init__(self, engine: AsyncEngine, url: str) -> None:
        self._engine = engine
        self._listener = Listener(url, notifications.CHANGES, self._on_notification)
        self._waiters: dict[UUID, set[asyncio.Event]] = {}
        self.closed = False
        self.job: Coalescer[UUID, Job | None] = Coalescer(self._read_jobs, max_batch=MAX_BATCH, parallel=2)
        self.attempts: Coalescer[UUID, list[Attempt]] = Coalescer(self._read_attempts, max_batch=MAX_BATCH)

    async def run(self) -> None:
        """Listen and poll, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listener.run())
            group.create_task(self._poll())

    def close(self) -> None:
        """End all waits: the process is stopping."""
        self.closed = True
        self._wake(list(self._waiters))

    async def wait(self, job_id: UUID, done: Callable[[Job], bool], seconds: float) -> Job | None:
        """The job once `done(job)` is true, or as it is after `seconds`; None when it does not exist, or no longer.

        A ledger that goes away meanwhile is waited for. Raises `LedgerUnavailable` if it is away at the end.
        """
        with self.watch(job_id) as watch:
            try:
                return await watch.until(done, seconds)
            except TimeoutError:
                return await self.job(job_id)

    @contextlib.contextmanager
    def watch(self, job_id: UUID) -> "Iterator[Watch]":
        """Notice all changes of a job meanwhile."""
        changed = asyncio.Event()
        changed.set()
        self._waiters.setdefault(job_id, set()).add(changed)
        try:
            yield Watch(self, job_id, changed)
        finally:
            waiting = self._waiters[job_id]
            waiting.discard(changed)
            if not waiting:
                del self._waiters[job_id]

    def _on_notification(self, payload: str) -> None:
        if self._waiters:
            changed = notifications.changed_ids(payload)
            self._wake(list(self._waiters) if changed is None else changed)

    def _wake(self, ids: Sequence[UUID]) -> None:
        for job_id in ids:
            for event in self._waiters.get(job_id, ()):
                event.set()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_EVERY)
            self._wake(self._longest_unread())

    def _longest_unread(self) -> list[UUID]:
        """The first `POLLED` jobs, which become the last ones."""
        found = list(itertools.islice(self._waiters, POLLED))
        for job_id in found:
            self._waiters[job_id] = self._waiters.pop(job_id)
        return found

    async def _read_jobs(self, ids: list[UUID]) -> Sequence[Job | None]:
        async with reading(self._engine) as conn:
            found = await jobs_by_id(conn, ids)
        return [found.get(job_id) for job_id in ids]

    async def _read_attempts(self, ids: list[UUID]) -> Sequence[list[Attempt]]:
        async with reading(self._engine) as conn:
            found = await attempts_of(conn, ids)
        return [[attempt for attempt in found if attempt.job_id == job_id] for job_id in ids]


class Watch:
    """One client's look at a job. Until the job changes it asks the ledger for nothing."""

    def __init__(self, watcher: JobWatcher, job_id: UUID, changed: asyncio.Event) -> None:
        self._watcher = watcher
        self._job_id = job_id
        self._changed = changed

    async def until(self, done: Callable[[Job], bool], seconds: float) -> Job | None:
        """The job once `done(job)` is true; None when it does not exist, or no longer.

        Raises `TimeoutError` after `seconds`, or when the process stops. A ledger that goes away is waited for.
        """
        async with asyncio.timeout(seconds):
            while not self._watcher.closed:
                await self._changed.wait()
                self._changed.clear()
                with contextlib.suppress(LedgerUnavailable):  # the listener or a poll will set it again
                    job = await self._watcher.job(self._job_id)
                    if job is None or done(job):
                        return job
        raise TimeoutError
