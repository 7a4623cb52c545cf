"""Payloads, results and step names, checked alike in the worker and in its child processes."""

import math
from bisect import bisect_right
from typing import Any

import msgspec
from pydantic import BaseModel, ValidationError

from accepted.domain import json_text
from accepted.domain.failures import InvalidJob
from accepted.domain.job import Job
from accepted.errors import Refused
from accepted.handler import Handler

MAX_STEP_NAME = 200
"""Characters."""


def payload_of(handler: Handler, job: Job) -> Any:
    """The payload as the type that the handler declares. Raises `InvalidJob`, with no values in its message."""
    try:
        return handler.payload.validate_json(job.payload)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
        where = "/".join(map(str, wrong["loc"]))
        raise InvalidJob(f"the payload does not fit its type: /{where}: {wrong['msg']}") from None


def result_of(value: object, max_bytes: int) -> str:
    """A handler's return value as JSON text. From a child process it is a `msgspec.Raw` of JSON.

    Raises `InvalidJob` if it is not JSON, or larger than `max_bytes`.
    """
    return as_json("the result", value, max_bytes)


def start_of(text: str, max_bytes: int) -> str:
    """The start of `text` that has up to `max_bytes` as JSON, of which the quotes are two."""
    if size_of(text) <= max_bytes:
        return text
    return text[: bisect_right(range(len(text)), max_bytes, key=lambda length: size_of(text[:length])) - 1]


def size_of(value: object) -> int:
    """The size of `value` as JSON, in bytes. Text can grow: a control character has six bytes."""
    return len(msgspec.json.encode(value))


def step_name(name: object) -> str:
    """`name`, if it is a valid name of a step. Raises `ValueError`."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_STEP_NAME or not json_text.is_printable(name):
        raise ValueError(f"a step's name has 1 to {MAX_STEP_NAME} printable characters")
    return name


def step_result_of(name: str, value: object, max_bytes: int) -> str:
    """The result of a step's function as JSON text.

    Raises `InvalidJob` if it cannot be remembered, because on a retry the step would run again.
    """
    return as_json(f"the result of step {name!r}", value, max_bytes)


def child_of(body: dict[str, Any]) -> Any:
    """The body of `ctx.submit`, encoded and parsed, so that it means the same as a body of POST /jobs."""
    encoded = _encoded("a child of this job", body)
    try:
        return json_text.parse(encoded)
    except Refused as refused:
        raise InvalidJob(f"a child of this job is refused: {refused}") from None


def as_json(what: str, value: object, max_bytes: float = math.inf) -> str:
    """JSON text. `what` names the value in the text of the `InvalidJob` that is raised where it is not JSON."""
    return _encoded(what, value, max_bytes).decode()


def _encoded(what: str, value: object, max_bytes: float = math.inf) -> bytes:
    """Checks the size first, because the search for NaN in a huge value would block the event loop for seconds."""
    try:
        encoded = msgspec.json.encode(value, enc_hook=_plain)
        if len(encoded) > max_bytes:
            raise _NoJson(f"is larger than {max_bytes} bytes")
        finite = b"null" not in encoded or _finite(msgspec.to_builtins(value, enc_hook=_plain))
    except _NoJson as error:
        raise InvalidJob(f"{what} {error}") from None
    except Exception as error:  # properties of a result object can raise anything
        raise InvalidJob(f"{what} is not JSON: {type(error).__name__}") from None
    if not finite:
        raise InvalidJob(f"{what} is not JSON: it holds NaN or Infinity")
    return encoded


class _NoJson(Exception):
    """The message says what is wrong with the value."""


def _plain(value: object) -> Any:
    """Called by msgspec for a value of a type that it does not know."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    raise _NoJson(f"is not JSON: it holds an object of type {type(value).__name__}")


def _finite(value: object) -> bool:
    """Whether no number is NaN or Infinity, for which msgspec writes null."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_finite, value))
