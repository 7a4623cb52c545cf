"""One JSON object a line on standard error, with the same keys everywhere. No payload, no secret."""

import asyncio
import logging
import sys
from datetime import UTC, datetime
from typing import BinaryIO

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

_encoder = msgspec.json.Encoder(enc_hook=str)


def configure(pretty: bool = False) -> None:
    """Set up logging for this process; `pretty` is for people at a terminal."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
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
    lines = _Lines(sys.stderr.buffer)
    structlog.configure(
        processors=[_to_json],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )


def _to_json(logger: WrappedLogger, level: str, event: EventDict) -> bytes:
    """One processor for all that every line needs: a chain of them costs as much again."""
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, level, event)
    event["level"] = level
    event["timestamp"] = datetime.now(UTC)
    return _encoder.encode(event)


class _Lines:
    """Writes lines through once a turn of the event loop; at once where none is running."""

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
