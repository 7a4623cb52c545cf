"""What goes into a handler and what comes out of it: the same borders in the worker and in its child processes."""

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
    """The payload as the handler's own type. Raises `InvalidJob` for one that does not fit it, without its values."""
    try:
        return handler.payload.validate_json(job.payload)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
        where = "/".join(map(str, wrong["loc"]))
        raise InvalidJob(f"the payload does not fit its type: /{where}: {wrong['msg']}") from None


def result_of(value: object, max_bytes: int) -> str:
    """What a handler returned, as JSON text; from a child process it comes as `msgspec.Raw`, JSON already.

    Raises `InvalidJob` for what is no JSON, or too much of it.
    """
    return _json_of("the result", value, max_bytes)


def start_of(text: str, most: int) -> str:
    """As much of `text` as has `most` bytes as JSON, of which the quotes are two."""
    if size_of(text) <= most:
        return text
    return text[: bisect_right(range(len(text)), most, key=lambda length: size_of(text[:length])) - 1]


def size_of(value: object) -> int:
    """Bytes as JSON. A control character has six: bytes that came from elsewhere may grow."""
    return len(msgspec.json.encode(value))


def step_name(name: object) -> str:
    """Raises `ValueError` for what is no name of a step."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_STEP_NAME or not name.isprintable():
        raise ValueError(f"a step's name has 1 to {MAX_STEP_NAME} printable characters")
    return name


def step_result_of(name: str, value: object, max_bytes: int) -> str:
    """What a step came to, as JSON text.

    What cannot be remembered is `InvalidJob`: to run the step again is just what must not happen.
    """
    return _json_of(f"the result of step {name!r}", value, max_bytes)


def child_of(body: dict[str, Any]) -> Any:
    """A body for `ctx.submit`, through JSON and back: it means what it would mean had it come over HTTP."""
    encoded = _encoded("a child of this job", body)
    try:
        return json_text.parse(encoded)
    except Refused as refused:
        raise InvalidJob(f"a child of this job is refused: {refused}") from None


def _json_of(what: str, value: object, max_bytes: int) -> str:
    return _encoded(what, value, max_bytes).decode()


def _encoded(what: str, value: object, max_bytes: float = math.inf) -> bytes:
    """Size first: to look through what is too large anyway takes seconds, of the worker's event loop."""
    try:
        encoded = msgspec.json.encode(value, enc_hook=_plain)
        if len(encoded) > max_bytes:
            raise _NoJson(f"is larger than {max_bytes} bytes")
        finite = b"null" not in encoded or _finite(msgspec.to_builtins(value, enc_hook=_plain))
    except _NoJson as error:
        raise InvalidJob(f"{what} {error}") from None
    except Exception as error:  # also what the properties of a result object raise
        raise InvalidJob(f"{what} is not JSON: {type(error).__name__}") from None
    if not finite:
        raise InvalidJob(f"{what} is not JSON: it holds NaN or Infinity")
    return encoded


class _NoJson(Exception):
    """Its text says what is wrong."""


def _plain(value: object) -> Any:
    """What msgspec asks when it does not know a type."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    raise _NoJson(f"is not JSON: it holds an object of type {type(value).__name__}")


def _finite(value: object) -> bool:
    """Whether every number in it can be written as JSON; msgspec writes null for one that cannot."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_finite, value))
