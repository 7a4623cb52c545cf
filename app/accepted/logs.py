"""Logging: one JSON object a line on standard error, with the same keys everywhere, without payloads or secrets.

What libraries and the interpreter have to say goes the same way, so nothing else is on standard error. Lines about
something that is away are written once and then counted: see `outage`.

If a line cannot be written, because a disk is full or nobody reads the pipe, that line is lost. No request fails and
no loop waits for it.
"""

import asyncio
import atexit
import io
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from accepted import correlation
from accepted.domain.transitions import Transition
from accepted.errors import describe, escaped, readable
from accepted.log_stream import Lines, Unfailing

REPEAT_SECONDS = 10.0
"""Seconds for which equal lines are counted. An outage of an hour is 360 lines of each kind, not 3,600 or more."""

MAX_KINDS = 200
"""Kinds of lines that are counted at a time. Lines beyond them are written, each."""

MAX_LIBRARY = 2000
"""Characters of a library's message. pgserver's ends with what PostgreSQL says, after a thousand of commands."""

MAX_FRAMES = 8
"""Innermost places of a traceback that a line names."""

OF_GARBAGE = frozenset({"asyncio", "python", "py.warnings"})
"""Loggers that tell of garbage. It is collected in the context of any request or attempt, not in that which left it."""

ORDINARY = frozenset({"succeeded", "handed_back", "deferred", "cancelled"})
"""Outcomes of attempts that nobody has to look into."""

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
"""Of an object in memory: lines that differ only in it are equal."""

_encoder = msgspec.json.Encoder(enc_hook=str)

_lines: Lines | None = None
"""The destination of JSON lines; None before `configure`, and with `pretty`."""


def configure(pretty: bool = False) -> None:
    """Set up logging for this process; `pretty` is for a terminal."""
    _configure_libraries()
    if pretty:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
            cache_logger_on_first_use=True,
        )
        return
    log = io.BufferedWriter(Unfailing(sys.stderr.fileno()))
    global _lines
    _lines = lines = Lines(log)
    structlog.configure(
        processors=[_to_json],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )


def write(event: str, **fields: object) -> None:
    """Write a line at level info. For the line of each request: a structlog logger costs three times as much."""
    _write("info", {"event": event, **correlation.ids(), **fields})


def outage(event: str, error: BaseException, **about: object) -> None:
    """Warn of an `error` that passes when what is away is back, so that the caller tries again and again.

    The first line is written at once. Equal ones in the next `REPEAT_SECONDS` are counted, and one line with the number
    in `repeated` stands for them. Lines are equal if they differ only in an id (`…_id`) of `about`.
    """
    fields = {"event": event, "error": describe(error), **about}
    same = tuple(item for item in fields.items() if not item[0].endswith("_id"))
    _repeats.write(same, "warning", {**correlation.ids(), **fields})


def attempt(transition: Transition, *, type: str, queue: str, seconds: float) -> None:
    """The canonical line of an attempt: a warning if it failed, and then with the class, the message and the place."""
    told = {} if transition.outcome in ORDINARY else failure_of(transition)
    fields = {
        "event": "attempt", "job_id": str(transition.running.job_id), "type": type, "queue": queue,
        "attempt": transition.running.attempt, "outcome": transition.outcome, "status": transition.status,
        "duration_ms": round(seconds * 1000, 1),
    }  # fmt: skip
    _write("warning" if told else "info", {**correlation.ids(), **fields, **told})


def failure_of(transition: Transition) -> dict[str, str]:
    """`class` and `message` of the failure, and `where` (file:line) if the handler raised it; {} without a failure."""
    if transition.error is None:
        return {}
    error = msgspec.json.decode(transition.error)
    told = {"class": error["class"], "message": readable(error["message"])}
    return told if transition.where is None else {**told, "where": transition.where}


def flush() -> None:
    """Write what is counted. Called at the end of the process, which `os._exit` would skip."""
    _repeats.tell(at_end=True)
    if _lines is not None:
        _lines.flush()


def _configure_libraries() -> None:
    """Take what libraries, warnings and the interpreter would write to standard error."""
    logging.basicConfig(level=logging.WARNING, handlers=[_FromLibraries(logging.WARNING)])
    logging.captureWarnings(True)
    interpreter = logging.getLogger("python")

    def uncaught(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
        if issubclass(kind, Exception):
            interpreter.critical("uncaught exception", exc_info=(kind, error, frames))
        else:
            sys.__excepthook__(kind, error, frames)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            found = (args.exc_type, args.exc_value, args.exc_traceback)
            interpreter.error("uncaught exception in a thread", exc_info=found)

    def unraisable(args: Any) -> None:
        found = args.exc_value and (args.exc_type, args.exc_value, args.exc_traceback)
        interpreter.error(args.err_msg or "exception ignored", exc_info=found)

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_thread, unraisable
    atexit.register(flush)


def _to_json(logger: WrappedLogger, level: str, event: EventDict) -> bytes:
    """The only processor, because a chain of several costs twice as much."""
    return _encoded(level, {**correlation.ids(), **event})


def _encoded(level: str, event: EventDict) -> bytes:
    if (found := event.pop("exc_info", None)) and (error := sys.exception() if found is True else found):
        event.update(_told(error))
    event["level"] = level
    event["timestamp"] = datetime.now(UTC)
    try:
        return _encoder.encode(event)
    except Exception:  # a lone surrogate, or a value whose text cannot be made
        return _encoder.encode({name: escaped(str(value)) for name, value in event.items()})


@dataclass(slots=True)
class _Kind:
    """A kind of line that was written, and how many equal ones came since; `fields` are those of the last."""

    until: float
    level: str
    fields: dict[str, Any]
    count: int = 0


class _Repeats:
    """Writes the first line of a kind, and counts those that follow. Safe in any thread.

    Safe when it is called from within itself, too: wherever it allocates, the garbage collector may destroy a failed
    task, which asyncio logs.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kinds: dict[Hashable, _Kind] = {}

    def write(self, key: Hashable, level: str, fields: dict[str, Any]) -> None:
        """Lines with an equal `key` are of one kind."""
        self.tell()
        with self._lock:
            kind = self._kinds.get(key)
            if kind is not None:
                kind.level, kind.fields, kind.count = level, fields, kind.count + 1
            elif len(self._kinds) < MAX_KINDS:
                self._kinds[key] = _Kind(time.monotonic() + REPEAT_SECONDS, level, fields)
        if kind is None:
            _write(level, fields)
        elif kind.count == 1:
            self._tell_later()

    def tell(self, *, at_end: bool = False) -> None:
        """Write how often each kind was repeated whose time is over, or, at the end, each kind."""
        now = time.monotonic()
        with self._lock:
            over = [(key, kind) for key, kind in self._kinds.copy().items() if at_end or kind.until <= now]
            told = [(kind.level, {**kind.fields, "repeated": kind.count}) for _, kind in over if kind.count]
            for key, kind in over:
                if kind.count:  # the time begins anew, or each repetition would be a first line again
                    kind.until, kind.count = now + REPEAT_SECONDS, 0
                else:
                    self._kinds.pop(key, None)
        for level, fields in told:
            _write(level, fields)

    def _tell_later(self) -> None:
        """Without an event loop in this thread, the next line of any kind does it."""
        with suppress(RuntimeError):
            asyncio.get_running_loop().call_later(REPEAT_SECONDS, self.tell)


_repeats = _Repeats()


class _FromLibraries(logging.Handler):
    """Turns a record of the standard library's logging into one line. Equal ones are counted, as by `outage`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            level = "error" if record.levelno >= logging.ERROR else "warning"
            error = record.exc_info[1] if record.exc_info else None
            text = message if error else message.replace("\n", " | ")  # with an error, the rest repeats it
            fields = {"event": "library", "logger": record.name, "message": readable(text, MAX_LIBRARY)}
            fields |= _told(error) if error else {}
            ids = {} if record.name in OF_GARBAGE else correlation.ids()
            same = _ADDRESS.sub("", message.partition("\n")[0])
            _repeats.write((record.name, level, same, type(error)), level, {**ids, **fields})
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """A line that cannot be written is lost; the standard library would print a traceback."""


def _told(error: BaseException) -> dict[str, Any]:
    """An error as the fields of a line: without a traceback, whose source lines and messages can hold values."""
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    return {"error": describe(error), "where": [f"{one.filename}:{one.lineno} {one.name}" for one in frames]}


def _write(level: str, fields: dict[str, Any]) -> None:
    if _lines is None:
        getattr(structlog.get_logger(), level)(**fields)
    else:
        _lines.msg(_encoded(level, fields))
