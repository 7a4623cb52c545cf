"""LISTEN and NOTIFY. A notification may be lost, so every listener polls as well.

NOTIFY takes a database-wide lock at commit, once for all that a transaction sends: one for hundreds of jobs.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from accepted import logs
from accepted.concurrency import cancel_requested
from accepted.errors import LedgerUnavailable
from accepted.storage.db.engine import open_connection
from accepted.storage.db.statements import Connection, Statement

RECONNECT = 1.0
CHECK_EVERY = 5.0
"""Seconds between proofs that the listening connection still lives."""

EVERYTHING = "*"
"""The payload that stands for all notifications that may have been missed while there was no connection."""

CHANGES = "accepted_changed"
"""The channel for the ids of changed jobs."""

MAX_IDS = 200
"""Ids in a payload. It may have 8,000 bytes, and an id takes 37."""

ANNOUNCE = f"""(
    SELECT CAST(pg_notify('{CHANGES}', CASE WHEN count(*) > {MAX_IDS} THEN '{EVERYTHING}'
                                       ELSE string_agg(CAST(id AS text), ',') END) AS text)
    FROM {{rows}}
) AS announced"""
"""One more column of a statement, which announces the ids in its CTE `rows`: it saves a round trip."""

SETTINGS = "accepted_settings"
"""The channel for the kinds of settings that have changed: `LIMITS`, `TYPES`, `KEYS` or `DRAINS`."""

LIMITS, TYPES, KEYS = "limits", "types", "keys"
"""The `max_depth` of queues, their deletion and the quotas of tenants; job types; API keys."""

DRAINS = "drains"
"""Which processes are asked to drain. They see it in their own row, with the next heartbeat at the latest."""

_NOTIFY = Statement("SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload")

_VERSIONS = Statement("""
SELECT md5(concat(
    (SELECT string_agg(concat_ws(' ', name, max_depth), ',' ORDER BY name) FROM queues WHERE max_depth IS NOT NULL),
    ';', (SELECT string_agg(concat_ws(' ', tenant, jobs), ',' ORDER BY tenant) FROM quotas)
)) AS limits,
(SELECT concat_ws(' ', count(*), sum(CAST(CAST(xmin AS text) AS int8))) FROM job_types) AS types,
(SELECT concat_ws(' ', count(*), sum(CAST(CAST(xmin AS text) AS int8))) FROM api_keys) AS keys
""")
"""`xmin` is the transaction that wrote a row. Queues and quotas also have columns that change with each job."""


class Listener:
    """Calls `heard(payload)` for each notification on `channel`, and with `EVERYTHING` after each connect."""

    def __init__(self, url: str, channel: str, heard: Callable[[str], None]) -> None:
        self._url = url
        self._channel = channel
        self._heard = heard

    async def run(self) -> None:
        """Listen until cancelled."""
        while not cancel_requested():
            try:
                await self._listen()
            except (LedgerUnavailable, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                logs.outage("listener_lost", error, channel=self._channel)
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


async def announce(conn: Connection, ids: Sequence[UUID]) -> None:
    """Announce that this transaction changes these jobs. Listeners hear it after the commit."""
    if ids:
        texts = list(map(str, ids))
        payloads = [",".join(texts[first : first + MAX_IDS]) for first in range(0, len(texts), MAX_IDS)]
        await _NOTIFY.run(conn, channel=CHANGES, payloads=payloads)


async def announce_settings(conn: Connection, kind: str) -> None:
    """Announce that this transaction changes settings of this kind. Listeners hear it after the commit."""
    await _NOTIFY.run(conn, channel=SETTINGS, payloads=[kind])


async def settings_versions(conn: Connection) -> dict[str, str]:
    """The version of each kind of settings: another text after every change."""
    (row,) = await _VERSIONS.rows(conn)
    return {kind: row[kind] for kind in (LIMITS, TYPES, KEYS)}


def changed_ids(payload: str) -> list[UUID] | None:
    """The ids in a payload; None stands for any job, as does a payload that is none of ours."""
    try:
        return None if payload == EVERYTHING else [UUID(part) for part in payload.split(",")]
    except ValueError:
        return None
