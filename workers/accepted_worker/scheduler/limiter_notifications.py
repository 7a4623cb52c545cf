"""The notifications that wake the limiter: of held jobs, changed limits and free slots."""

import asyncio
import contextlib

from accepted.storage.db import notifications
from accepted.storage.db.notifications import Listener
from accepted.storage.queues import LIMITER_CHANNEL

APART = 0.015
"""Least seconds between polls while something is held: notifications may come as fast as jobs."""


class LimiterNotifications:
    """Two channels. That of ended jobs is as busy as the service: listened to only while a row waits for a slot."""

    def __init__(self, url: str) -> None:
        self._held = Listener(url, LIMITER_CHANNEL, lambda _: self._heard.set())
        self._ends = Listener(url, notifications.CHANGES, self._on_end)
        self._heard = asyncio.Event()
        self._for_an_end = False
        self._wanted = asyncio.Event()
        self._unwanted = asyncio.Event()

    def clear(self) -> None:
        """Forget the notifications so far: a poll begins."""
        self._heard.clear()

    async def listen(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._held.run())
            group.create_task(self._listen_to_ends())

    async def wait(self, seconds: float) -> None:
        """Nothing is held: until something is, or for so long."""
        self._for_an_end = False
        if not await self._notified_within(seconds):
            self._wanted.clear()
            self._unwanted.set()

    async def wait_held(self, seconds: float, *, for_an_end: bool) -> None:
        """Something is held: for so long, or until a notification; with `for_an_end` also that of an ended job."""
        self._for_an_end = for_an_end
        if for_an_end:
            self._unwanted.clear()
            self._wanted.set()
        await asyncio.sleep(min(seconds, APART))
        await self._notified_within(seconds - APART)

    async def _notified_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._heard.wait()
        return self._heard.is_set()

    async def _listen_to_ends(self) -> None:
        while True:
            await self._wanted.wait()
            listening = asyncio.create_task(self._ends.run())
            try:
                await self._unwanted.wait()
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    def _on_end(self, _: str) -> None:
        if self._for_an_end:
            self._heard.set()
