"""The watchdog of a worker's event loop: whether it turns, and if it does not, which attempt holds it up, and where.

A thread asks. It calls the loop, and looks some time later whether the loop has come to that call. If not, the task
that the loop runs at that moment is held to block it, once several looks in a row have found the same one: a loop that
is merely slow runs another each time. Time in which the thread itself does not run (the process is stopped, or C code
holds the interpreter) is not counted, so nobody is blamed for it.
"""

import asyncio
import sys
import threading
import time

import msgspec
import structlog

from accepted.metrics import LOOP_BLOCKED
from accepted_worker.attempt.failures import place_in
from accepted_worker.attempt.handler_call import CalledAttempt, HandlerTask

LOOK_SECONDS = 0.5
"""Seconds between two looks. Each wakes the loop once, so a worker at rest wakes twice a second for them."""

BLOCKED_SECONDS = 1.0
"""Seconds from which on a loop counts as blocked. Handlers that compute for less are a matter for the lag metric."""

log = structlog.get_logger(__name__)


class Blocking(msgspec.Struct):
    """What blocks the loop: `attempt`, or None if it is no attempt's task; `where` (file:line); for how long already.

    `seconds` are those that were observed.
    """

    task: "asyncio.Task[object] | None"
    attempt: CalledAttempt | None
    where: str
    seconds: float = 0.0

    @property
    def told(self) -> dict[str, object]:
        """For the log and for the ledger."""
        about = {"where": self.where, "seconds": round(self.seconds, 1)}
        if self.attempt is None:
            return about
        lease = self.attempt.lease
        return {"type": self.attempt.type, "job_id": str(lease.job_id), "attempt": lease.attempt, **about}


class LoopWatchdog:
    """Watches the event loop that it is created on. `look` is for one other thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._turned = True
        self._looked_at = time.monotonic()
        self._found: Blocking | None = None

    @property
    def blocking(self) -> Blocking | None:
        """What blocks the loop, as of the last look; None if nothing does."""
        return self._found if self._found is not None and self._found.seconds >= BLOCKED_SECONDS else None

    def look(self) -> None:
        """Look at the loop. Logs when it is blocked, once, and when it turns again. Call it every `LOOK_SECONDS`."""
        before, self._looked_at = self._looked_at, time.monotonic()
        if self._turned:
            self._forget()
            self._turned = False
            self._loop.call_soon_threadsafe(self._turn)
        else:
            self._blame(min(self._looked_at - before, 2 * LOOK_SECONDS))

    def _turn(self) -> None:
        self._turned = True

    def _forget(self) -> None:
        blocking, self._found = self.blocking, None
        if blocking is not None:
            log.warning("loop_turns_again", **blocking.told)

    def _blame(self, seconds: float) -> None:
        """The loop runs `task` now. It may have begun after the last look, so the first one counts for nothing."""
        task, frame = asyncio.current_task(self._loop), sys._current_frames().get(self._thread)
        where = "" if frame is None else place_in(frame)
        if self._found is None or self._found.task is not task:
            self._forget()
            self._found = Blocking(task, task.attempt if isinstance(task, HandlerTask) else None, where)
            return
        known = self.blocking is not None
        self._found.where, self._found.seconds = where, self._found.seconds + seconds
        LOOP_BLOCKED.labels(self._found.attempt.type if self._found.attempt else "").inc(seconds)
        if self.blocking is not None and not known:
            log.warning("loop_blocked", **self._found.told)
