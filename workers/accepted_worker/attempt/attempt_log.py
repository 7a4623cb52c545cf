"""The log of one attempt: what its handler logs, kept with the job for `GET /jobs/{id}/logs`.

`ctx.log` keeps its lines by itself. Lines of the standard library's `logging`, from any logger, belong to the attempt
in whose context they are logged: its coroutine, the tasks and the thread that run it, and in a child process all
threads. So lines of different jobs never mix. Lines of level debug are not kept.

An attempt keeps its last `MAX_LINES` lines and `MAX_BYTES`, in memory and in the ledger, however many it logs.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import msgspec
import structlog

from accepted.domain.job import Job
from accepted.logs import OF_GARBAGE
from accepted_worker.attempt.log_line import FRAME, Line, of_event, of_record

MAX_LINES = 1000
MAX_BYTES = 64 * 1024
"""Lines that an attempt keeps, and the bytes of their messages and fields as JSON: the end of a long log."""

NOT_KEPT = frozenset(name.partition(".")[0] for name in (*OF_GARBAGE, "aio_pika", "aiormq", "sqlalchemy"))
"""First parts of the names of loggers that are no handler's: what tells of garbage, and the drivers by which the
service reaches its servers."""


_log = structlog.get_logger("handler")


class Unwritten(msgspec.Struct, frozen=True):
    """Lines that are not written yet. Those of an attempt are numbered from 1; the last one is number `last`.

    `first` is the number of the oldest line that is still kept, written or not.
    """

    first: int
    last: int
    lines: list[Line]


class AttemptLog:
    """The last lines of one attempt. For any thread."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called, in the thread that logs, when there is something to write; not again before `unwritten`."""
        self._wake = wake
        self._lock = threading.RLock()  # the garbage collector may log from within
        self._waiting: deque[Line] = deque()
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._last = 0
        self._woken = False
        self._ended = False

    def add(self, line: Line) -> None:
        """Keep a line, and drop the oldest ones that no longer fit. Does nothing after `end`."""
        with self._lock:
            to_wake = not self._ended and self._append([line])
        if to_wake:
            self._wake()

    def extend(self, lines: Iterable[Line], last: int) -> None:
        """Keep lines that another process has numbered, the last of them as number `last`."""
        new = list(lines)
        with self._lock:
            if last - len(new) > self._last:  # the other process has dropped lines in between
                self._forget(last - len(new))
            to_wake = not self._ended and self._append(new)
        if to_wake:
            self._wake()

    def end(self) -> bool:
        """The attempt is over: keep no more lines. Returns whether any are not written."""
        with self._lock:
            self._ended = True
            return bool(self._waiting)

    def unwritten(self) -> Unwritten | None:
        """What has to be written; None if nothing has."""
        with self._lock:
            self._woken = False
            if not self._waiting:
                return None
            return Unwritten(self._last - len(self._sizes) + 1, self._last, list(self._waiting))

    def written(self, last: int) -> None:
        """The lines up to number `last` are written."""
        with self._lock:
            while self._waiting and self._last - len(self._waiting) < last:
                self._waiting.popleft()

    def _append(self, new: list[Line]) -> bool:
        """Returns whether to call `wake`: without the lock, because it may wait for a thread that asks for lines."""
        for line in new:
            self._last += 1
            self._waiting.append(line)
            self._sizes.append(len(line) - FRAME)
            self._bytes += len(line) - FRAME
        while len(self._sizes) > MAX_LINES or self._bytes > MAX_BYTES:
            self._bytes -= self._sizes.popleft()
        while len(self._waiting) > len(self._sizes):
            self._waiting.popleft()
        woken, self._woken = self._woken, True
        return not woken

    def _forget(self, last: int) -> None:
        self._waiting.clear()
        self._sizes.clear()
        self._bytes, self._last = 0, last


class HandlerLog:
    """`ctx.log`: each line goes to the process's log, with job_id, type and attempt, and into the attempt's own."""

    def __init__(self, job: Job, kept: AttemptLog, fields: Mapping[str, Any]) -> None:
        self._job = job
        self._kept = kept
        self._fields = fields

    def debug(self, event: str, /, **fields: Any) -> None:
        self._tell("debug", event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._say("info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._say("warning", event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        self._say("error", event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        self._say("error", event, {"exc_info": True, **fields})

    def bind(self, **fields: Any) -> "HandlerLog":
        return HandlerLog(self._job, self._kept, {**self._fields, **fields})

    def _say(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        self._kept.add(of_event(level, event, {**self._fields, **fields}))
        self._tell(level, event, fields)

    def _tell(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        job = self._job
        about = {"job_id": str(job.id), "type": job.type, "attempt": job.attempt, **self._fields, **fields}
        with suppress(Exception):  # what cannot be written fails no job
            getattr(_log, level)(event, **about)


def handler_log(job: Job, kept: AttemptLog) -> HandlerLog:
    """The logger of one attempt's handler."""
    return HandlerLog(job, kept, {})


_current: ContextVar[AttemptLog | None] = ContextVar("_current", default=None)


class _OfAttempts(logging.Handler):
    """Keeps what `logging` is given within an attempt."""

    whole_process: AttemptLog | None = None
    """The log of the only attempt that runs in this process."""

    def emit(self, record: logging.LogRecord) -> None:
        kept = _current.get() or self.whole_process
        if kept is not None and record.name.partition(".")[0] not in NOT_KEPT:
            with suppress(Exception):  # such as wrong arguments, which harm no handler
                kept.add(of_record(record))


_of_attempts = _OfAttempts(logging.INFO)


def keep_from_logging() -> None:
    """From now on attempts in this process keep what is logged at level info and above. May be called again."""
    root = logging.getLogger()
    if root.level > logging.INFO:
        root.setLevel(logging.INFO)
    if _of_attempts not in root.handlers:
        root.addHandler(_of_attempts)


def keep_in_this_context(kept: AttemptLog) -> None:
    """What this task logs, and the tasks and threads that take over its context, belongs to this attempt."""
    _current.set(kept)


def keep_in_this_process(kept: AttemptLog | None) -> None:
    """What this process logs belongs to this attempt, which is the only one that it runs."""
    _of_attempts.whole_process = kept
