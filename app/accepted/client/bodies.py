"""What the client sends: bodies from Python values, paths, queries and keys."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import msgspec

from accepted.client.options import JobKind
from accepted.handler import handler_of

JSON = {"Content-Type": "application/json"}


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def keyed(key: str | None) -> dict[str, str]:
    """The headers of a submission: with `key`, else with a new one. It keeps the key however often it is sent."""
    return {**JSON, "Idempotency-Key": str(uuid4()) if key is None else key}


def job(kind: JobKind, payload: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of POST /jobs."""
    return {"type": type_name(kind), "payload": {} if payload is None else payload, **given(options)}


def type_name(kind: JobKind) -> str:
    """The name of the type. Raises `ConfigurationError` for a function that is no handler."""
    return kind if isinstance(kind, str) else handler_of(kind).type.name


def encode(value: Any) -> bytes:
    """JSON. Pydantic models, dataclasses, times, UUIDs and enums become what they are in JSON.

    Raises `TypeError` for any other object and `ValueError` for a number that JSON has not.
    """
    plain = msgspec.to_builtins(value, enc_hook=_plain)
    return json.dumps(plain, allow_nan=False, separators=(",", ":")).encode()


def segment(name: str) -> str:
    """A name or id as one segment of a path, so that it cannot lead to another address."""
    return quote(str(name), safe="")


def query(filters: Mapping[str, Any]) -> dict[str, str]:
    """Filters as query parameters."""
    found = given(filters)
    pairs = found.pop("metadata", {})
    return {name: _parameter(value) for name, value in found.items()} | {
        f"metadata[{key}]": value for key, value in pairs.items()
    }


def _parameter(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) else ",".join(map(str, value))


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # of Pydantic, which need not be loaded
    if dump is None:
        raise TypeError(f"{type(value).__name__} is not JSON, nor a Pydantic model or dataclass")
    return dump(mode="json", by_alias=True)
