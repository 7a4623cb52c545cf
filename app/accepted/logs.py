"""Logging: one JSON object a line on standard error, with the same keys everywhere, without payloads or secrets.

If a line cannot be written, because a disk is full or nobody reads the pipe, that line is lost. No request fails and
no loop waits for it.
"""

import asyncio
import io
import logging
import os
import stat
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from accepted.context import ContextLog
from accepted.domain.job import Job

_encoder = msgspec.json.Encoder(enc_hook=str)


_lines: "_Lines | None" = None
"""The destination of JSON lines; None before `configure`, and with `pretty`."""


def configure(pretty: bool = False) -> None:
    """Set up logging for this process; `pretty` is for a terminal."""
    if pretty:
        _configure_library(sys.stderr)
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
    log = io.BufferedWriter(_Unfailing(sys.stderr.fileno()))
    _configure_library(io.TextIOWrapper(log, write_through=True))
    global _lines
    _lines = lines = _Lines(log)
    structlog.configure(
        processors=[_to_json],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )


def write(event: str, **fields: object) -> None:
    """Write a line at level info. For the line of each request: a structlog logger costs three times as much."""
    if _lines is None:
        structlog.get_logger().info(event, **fields)
    else:
        _lines.msg(_to_json(None, "info", {"event": event, **fields}))


def of_handler(job: Job) -> ContextLog:
    """The logger of one attempt's handler: each line has job_id, type and attempt."""
    log: ContextLog = structlog.get_logger("handler").bind(job_id=str(job.id), type=job.type, attempt=job.attempt)
    return log


def _configure_library(stream: TextIO) -> None:
    """Send what libraries log to the same stream."""
    logging.basicConfig(level=logging.WARNING, stream=stream, format="%(levelname)s %(name)s %(message)s")


def _to_json(logger: WrappedLogger, level: str, event: EventDict) -> bytes:
    """The only processor, because a chain of several costs twice as much."""
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, level, event)
    event["level"] = level
    event["timestamp"] = datetime.now(UTC)
    return _encoder.encode(event)


class _Unfailing(io.RawIOBase):
    """Writes to a file descriptor, and ignores errors. A pipe is set to non-blocking."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.set_blocking(descriptor, False)

    def writable(self) -> bool:
        return True

    def write(self, line: Any) -> int:
        with suppress(OSError):
            os.write(self._descriptor, line)
        return len(line)


class _Lines:
    """Flushes lines once a turn of the event loop, or at once if no loop runs."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._flushing = False

    def msg(self, line: bytes) -> None:
        self._stream.write(line + b"\n")
        if self._flushing:
            return
        try:
            asyncio.get_running_loop().call_soon(self._flush)
            self._flushing = True
        except RuntimeError:
            self._stream.flush()

    debug = info = warning = error = critical = exception = msg

    def _flush(self) -> None:
        self._flushing = False
        self._stream.flush()
