"""One line of an attempt's log as JSON: `at`, `level`, `message` and `fields`, whatever a handler has logged.

A line is bounded, and it is always JSON that the ledger can store and clients can read.
"""

import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from accepted.errors import escaped

MAX_TEXT = 8 * 1024
"""Characters of a message, and of a traceback, of which the end is kept."""

MAX_VALUE = 1024
MAX_NAME = 100
"""Characters of a field's value, as JSON, and of its name."""

MAX_FIELDS = 50
MAX_FIELDS_BYTES = 16 * 1024
"""Fields of a line, and their bytes. Those that come after are left out."""

CUT = "…"

Line: TypeAlias = bytes
"""A line as JSON. With the limits above it has less than 50 KiB."""

FRAME = len('{"at":"2026-11-30T20:16:45.123456Z","level":"info","message":"","fields":{}}')
"""Bytes of a line besides what the handler has said."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""The attributes of a log record that are not its `extra` fields."""

_LEVELS = ((logging.CRITICAL, "critical"), (logging.ERROR, "error"), (logging.WARNING, "warning"))

_encoder = msgspec.json.Encoder(enc_hook=str)


def of_event(level: str, event: object, fields: Mapping[str, Any]) -> Line:
    """A line of `ctx.log`, with the traceback of the exception in `exc_info`."""
    others = {name: value for name, value in fields.items() if name != "exc_info"}
    return _line(datetime.now(UTC), level, event, others, fields.get("exc_info"))


def of_record(record: logging.LogRecord) -> Line:
    """A record of the standard library's `logging`, with its logger and its `extra` as fields."""
    fields = {"logger": record.name, **{name: value for name, value in vars(record).items() if name not in _STANDARD}}
    level = next((level for number, level in _LEVELS if record.levelno >= number), "info")
    return _line(datetime.fromtimestamp(record.created, UTC), level, record.getMessage(), fields, record.exc_info)


def _line(at: datetime, level: str, message: object, fields: Mapping[str, Any], error: object) -> Line:
    shown = _shown(fields)
    if error and (trace := _traceback(error)):
        shown["traceback"] = msgspec.Raw(_encoded(trace, MAX_TEXT, keep_end=True))
    text = msgspec.Raw(_encoded(_text(message), MAX_TEXT))
    return _encoder.encode({"at": at, "level": level, "message": text, "fields": shown})


def _shown(fields: Mapping[str, Any]) -> dict[str, msgspec.Raw]:
    shown: dict[str, msgspec.Raw] = {}
    left = MAX_FIELDS_BYTES
    for name, value in islice(fields.items(), MAX_FIELDS):
        key, encoded = _text(name)[:MAX_NAME], _value(value)
        left -= len(_encoder.encode(key)) + len(encoded)
        if left >= 0:
            shown[key] = msgspec.Raw(encoded)
    return shown


def _value(value: object) -> bytes:
    """JSON, or a text for what has none or too much of it."""
    if isinstance(value, str):
        return _encoded(_text(value), MAX_VALUE)
    try:
        encoded = _encoder.encode(value)
    except Exception:
        return _encoded(_text(value), MAX_VALUE)
    return encoded if len(encoded) <= 2 * MAX_VALUE else _encoded(encoded.decode(), MAX_VALUE)


def _text(value: object) -> str:
    """Its text, with escapes for lone surrogates, which UTF-8 cannot carry. A `__str__` can raise anything."""
    try:
        return escaped(str(value))
    except BaseException:
        return f"({type(value).__name__} without a text)"


def _encoded(text: str, limit: int, *, keep_end: bool = False) -> bytes:
    """The text as JSON: at most `limit` characters and twice as many bytes."""
    encoded = _encoder.encode(_cut(text, limit, keep_end))
    return encoded if len(encoded) <= 2 * limit else _encoder.encode(_cut(text, limit // 6, keep_end))


def _cut(text: str, limit: int, keep_end: bool) -> str:
    if len(text) <= limit:
        return text
    return CUT + text[1 - limit :] if keep_end else text[: limit - 1] + CUT


def _traceback(error: object) -> str | None:
    """`error` as loggers take it: an exception, the triple of `sys.exc_info`, or another truth for the current one."""
    triple = error if isinstance(error, tuple) else sys.exc_info()
    found = error if isinstance(error, BaseException) else triple[1]
    if not isinstance(found, BaseException):
        return None
    try:
        return _text("".join(traceback.format_exception(found)))
    except BaseException:  # the methods of a handler's own exception class can raise anything
        return None
