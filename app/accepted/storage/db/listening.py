"""LISTEN: hints that something changed. A hint may be missed, so whoever listens also looks by himself now and then."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import asyncpg
import structlog

from accepted.concurrency import cancel_requested
from accepted.storage.db.engine import open_connection

RECONNECT = 1.0
CHECK_EVERY = 5.0
"""Seconds between proofs that the listening connection still lives."""

EVERYTHING = "*"
"""The hint that stands for the hints that may have been missed while there was no connection."""

log = structlog.get_logger(__name__)


class Listener:
    """Calls `heard(payload)` for each NOTIFY on `channel`, for as long as it runs; reconnects by itself."""

    def __init__(self, url: str, channel: str, heard: Callable[[str], None]) -> None:
        self._url = url
        self._channel = channel
        self._heard = heard

    async def run(self) -> None:
        """Listen until cancelled."""
        while not cancel_requested():
            try:
                await self._listen()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.info("listener_lost", channel=self._channel, error=type(error).__name__)
            await asyncio.sleep(RECONNECT)

    async def _listen(self) -> None:
        connection = await open_connection(self._url)
        try:
            await connection.add_listener(self._channel, self._on_notify)
            self._heard(EVERYTHING)
            while not cancel_requested():
                await asyncio.sleep(CHECK_EVERY)
                await connection.execute("SELECT 1")
        finally:
            with contextlib.suppress(Exception):
                connection.terminate()

    def _on_notify(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self._heard(str(payload))
