"""Writes the logs of attempts to the ledger, in few writes. A handler that logs nothing costs nothing.

Lines are written about a second after they are logged, and the rest before the outcome of the attempt, so whoever sees
the job finished can read them. A write that fails never fails the job.
"""

import asyncio
import contextvars
from collections.abc import Sequence
from functools import partial

import structlog

from accepted import logs
from accepted.concurrency import Coalescer
from accepted.domain.references import Lease
from accepted.errors import LedgerUnavailable
from accepted.storage.attempts.logs import Piece
from accepted.storage.db.engine import RETRY_SECONDS
from accepted_worker.attempt.attempt_log import AttemptLog
from accepted_worker.attempt.records import AttemptRecords
from accepted_worker.attempt.threads import LoopBridge

PAUSE = 1.0
"""Seconds from a line to its write. A worker that dies loses the lines of this time."""

MAX_BATCH = 50
"""Attempts in one write, each with up to 64 KiB."""

SETTLE_SECONDS = 30.0
"""Seconds that the last lines of an attempt may hold up its outcome while the ledger is away. It restarts in less."""

log = structlog.get_logger(__name__)

_Entry = tuple[Lease, AttemptLog]


class LogWriter:
    """The logs of all attempts of one worker. For the worker's event loop alone."""

    def __init__(self, records: AttemptRecords) -> None:
        self._records = records
        self._write: Coalescer[_Entry, None] = Coalescer(self._write_batch, max_batch=MAX_BATCH)
        self._due: dict[Lease, AttemptLog] = {}
        self._ended: dict[Lease, AttemptLog] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._context = contextvars.copy_context()
        """That of no attempt: what this writer does is for all of them."""

    def open(self, lease: Lease, bridge: LoopBridge) -> AttemptLog:
        """The log of an attempt that begins."""
        opened = AttemptLog(lambda: bridge.call_soon(self._woken, lease, opened))
        return opened

    def end(self, lease: Lease, attempt_log: AttemptLog) -> None:
        """The attempt has ended: keep no more lines of it."""
        if attempt_log.end():
            self._ended[lease] = attempt_log

    async def settle(self, lease: Lease) -> None:
        """Write the rest of the log of an attempt that has ended. Gives up after `SETTLE_SECONDS`."""
        if (attempt_log := self._ended.pop(lease, None)) is None:
            return
        give_up = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while True:
            try:
                await self._write((lease, attempt_log))
                return
            except LedgerUnavailable as error:
                logs.outage("attempt_log_waits", error)
                if asyncio.get_running_loop().time() > give_up:
                    return
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("attempt_log_refused", job_id=str(lease.job_id))
                return

    def close(self) -> None:
        """Write no more before an attempt ends."""
        if self._timer is not None:
            self._timer.cancel()

    def _woken(self, lease: Lease, attempt_log: AttemptLog) -> None:
        self._due[lease] = attempt_log
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, self._write_due, context=self._context)

    def _write_due(self) -> None:
        self._timer, due, self._due = None, self._due, {}
        for entry in due.items():
            self._write(entry).add_done_callback(partial(self._done, entry))

    def _done(self, entry: _Entry, written: "asyncio.Future[None]") -> None:
        """What was not written stays in the attempt's log: it is tried again, or comes before the outcome."""
        if written.cancelled() or (error := written.exception()) is None:
            return
        logs.outage("attempt_log_waits", error)
        if isinstance(error, LedgerUnavailable):
            self._woken(*entry)

    async def _write_batch(self, batch: list[_Entry]) -> Sequence[None]:
        unwritten = {lease: found for lease, attempt_log in batch if (found := attempt_log.unwritten())}
        if unwritten:
            pieces = [Piece(lease, one.first, one.last, one.lines) for lease, one in unwritten.items()]
            await self._records.append_logs(pieces)
            for lease, attempt_log in batch:
                if lease in unwritten:
                    attempt_log.written(unwritten[lease].last)
        return [None] * len(batch)
