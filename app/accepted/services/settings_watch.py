"""Copies of settings that a process keeps (limits, types, keys), and how it learns that they are out of date.

A setting holds in the process that confirmed it from its confirmation on: that process calls `forget` on its copy after
the COMMIT. Any other process hears a notification, and compares versions in case one was lost. A copy that is out of
date is read again before its next use, so no answer is given by a setting that this process knows to be old.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from accepted.concurrency import cancel_requested
from accepted.errors import LedgerUnavailable
from accepted.storage.db import notifications
from accepted.storage.db.engine import reading
from accepted.storage.db.notifications import EVERYTHING, Listener

POLL_EVERY = 0.4
"""Seconds between comparisons of versions: a setting holds everywhere within half a second."""

MOST_READS = 5
"""Reads that one user of a copy waits for: settings may change faster than they are read, for as long as it pleases
those who change them."""

log = structlog.get_logger(__name__)

Forget = Callable[[], None]


class SettingsCopy:
    """A copy of settings that `read` reads.

    Concurrent users of a copy that is out of date share one read, and its error: one after the other they would wait
    for a silent ledger several times over.
    """

    def __init__(self, read: Callable[[], Awaitable[None]]) -> None:
        self._read = read
        self._changes = 1
        self._read_after = 0
        self._reading: asyncio.Task[None] | None = None

    @property
    def fresh(self) -> bool:
        """Whether it was read after the last change that this process knows of."""
        return self._read_after == self._changes

    def forget(self) -> None:
        """The settings have changed. A read that is under way does not count."""
        self._changes += 1

    async def refresh(self) -> None:
        """Read it, unless it is fresh. Raises what `read` raises, and stays out of date then.

        After `MOST_READS` that were each overtaken by a change it returns with the last, which began after the call.
        """
        for _ in range(MOST_READS):
            if self.fresh:
                return
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_now())
                self._reading.add_done_callback(_retrieved)
            await asyncio.shield(self._reading)

    async def _read_now(self) -> None:
        changes = self._changes
        try:
            await self._read()
            self._read_after = changes
        finally:
            self._reading = None


class SettingsWatch:
    """Calls the `forget` of each kind of settings (`accepted.storage.db.notifications`) that has changed."""

    def __init__(self, engine: AsyncEngine, url: str, forget: Mapping[str, Forget]) -> None:
        self._engine = engine
        self._forget = forget
        self._listener = Listener(url, notifications.SETTINGS, self._on_notification)
        self._seen: dict[str, str] = {}

    async def run(self) -> None:
        """Watch until cancelled. While the ledger is away, the copies stay as they are."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listener.run())
            group.create_task(self._poll())

    async def compare(self) -> None:
        """Compare the versions of all settings with those last seen. Raises `LedgerUnavailable`."""
        async with reading(self._engine) as conn:
            found = await notifications.settings_versions(conn)
        for kind, version in found.items():
            if self._seen.get(kind) != version:
                self._forget[kind]()
        self._seen = found

    async def _poll(self) -> None:
        while not cancel_requested():
            try:
                await self.compare()
            except LedgerUnavailable as error:
                log.debug("settings_not_compared", error=str(error))
            except Exception:
                log.exception("settings_not_compared")
            await asyncio.sleep(POLL_EVERY)

    def _on_notification(self, payload: str) -> None:
        for kind, forget in self._forget.items():
            if payload in (kind, EVERYTHING):
                forget()


def _retrieved(reading: "asyncio.Task[None]") -> None:
    """Take its error, or asyncio logs it: all who waited for it may have given up."""
    if not reading.cancelled():
        reading.exception()
