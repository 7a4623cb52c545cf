"""A process in the ledger: its row, what it says of itself there, and how it hears that it is to drain."""

import asyncio
import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from uuid import UUID

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

import accepted
from accepted import logs
from accepted.concurrency import cancel_requested, set_within
from accepted.domain.ids import new_id
from accepted.errors import LedgerUnavailable
from accepted.loops import LoopReport
from accepted.storage.db.engine import transaction
from accepted.storage.monitoring import processes
from accepted.storage.monitoring.processes import Kind, PartOf, Process

BEAT_EVERY = 10.0
"""Seconds. `accepted.storage.monitoring.processes.SILENT` is three of them."""

FIRST_BEAT_EVERY = 1.0
"""Seconds between tries while the process has no row yet."""

MOST_QUEUES = 1000
"""Names in a row, which is written with each heartbeat."""

RECENT_MINUTES = 5
"""For so long an outcome counts as recent, give or take the minute that has begun."""

log = structlog.get_logger(__name__)


class Report(msgspec.Struct, kw_only=True):
    """What a process says of itself: the queues that it serves, recent outcomes by class, and its loops."""

    queues: list[str] = []
    outcomes: dict[str, int] = {}
    loops: list[LoopReport] = []


class RecentOutcomes:
    """How many attempts of this process ended in the last minutes, by outcome."""

    def __init__(self) -> None:
        self._by_minute: dict[int, Counter[str]] = {}

    def count(self, outcome: str) -> None:
        minute = int(time.monotonic() // 60)
        counted = self._by_minute.get(minute)
        if counted is None:
            counted = self._by_minute[minute] = Counter()
            self._forget(minute - RECENT_MINUTES)
        counted[outcome] += 1

    def recent(self) -> dict[str, int]:
        self._forget(int(time.monotonic() // 60) - RECENT_MINUTES)
        return dict(sum(self._by_minute.values(), Counter()))

    def _forget(self, minute: int) -> None:
        self._by_minute = {at: counted for at, counted in self._by_minute.items() if at > minute}


class Presence:
    """Keeps the row of this process, and calls `drain` once somebody asks for that.

    A process whose ledger is away works on, and has its row again when the ledger is back.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        kind: Kind,
        drain: Callable[[], None],
        *,
        id: UUID | None = None,
        part_of: PartOf | None = None,
        report: Callable[[], Report] = Report,
    ) -> None:
        self._engine = engine
        self._process = Process(
            id=id or new_id(),
            kind=kind,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=accepted.__version__,
            part_of=part_of,
        )
        self._drain = drain
        self._report = report
        self._started = time.monotonic()
        self.shown = asyncio.Event()
        """Set once it has its row. Until then whoever runs it says that the ledger is waited for."""
        self._due = asyncio.Event()
        self._drains = False

    def look(self) -> None:
        """Some process is asked to drain: see at once whether it is this one."""
        self._due.set()

    async def run(self) -> None:
        """Keep the row until cancelled."""
        while not cancel_requested():
            self._due.clear()
            try:
                await self._beat()
                self.shown.set()
            except LedgerUnavailable as error:
                if self.shown.is_set():
                    logs.outage("process_not_shown", error)
            except Exception:
                log.exception("process_not_shown")
            await set_within(BEAT_EVERY if self.shown.is_set() else FIRST_BEAT_EVERY, self._due)

    async def end(self) -> None:
        """Delete the row: the process ends. If the ledger is away, the row is silent and no longer shown."""
        with contextlib.suppress(LedgerUnavailable):
            async with transaction(self._engine) as conn:
                await processes.end(conn, self._process.id)
                await conn.commit()

    async def _beat(self) -> None:
        report = self._report()
        async with transaction(self._engine) as conn:
            drains = await processes.beat(
                conn,
                self._process,
                age=time.monotonic() - self._started,
                queues=report.queues[:MOST_QUEUES],
                outcomes=_json(report.outcomes),
                loops=_json(report.loops),
            )
            await conn.commit()
        if drains and not self._drains:
            log.info("drain_requested", id=str(self._process.id))
            self._drains = True
            self._drain()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
