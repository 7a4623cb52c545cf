"""The `@job` decorator: it makes a function the handler of a job type.

pydantic is imported with the first decoration, so that importing the decorator alone is quick.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints

import msgspec

from accepted.domain.failures import OnNotFound
from accepted.domain.job import (
    DEFAULT_QUEUE,
    DEFAULT_TIMEOUT,
    MAX_DESCRIPTION,
    QUEUE_PATTERN,
    RESERVED_QUEUE,
    TYPE_PATTERN,
    WEBHOOK_QUEUE,
    JobType,
)
from accepted.domain.json_text import storable
from accepted.domain.retry import LONGEST_WAIT, Retry, is_duration
from accepted.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MARK = "__accepted_handler__"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Handler:
    """A function and the job type that it runs."""

    type: JobType
    function: Callable[..., Any]
    payload: "TypeAdapter[Any]"
    is_async: bool
    in_process: bool = False

    @property
    def interruptible(self) -> bool:
        """Whether the worker can end it: it cancels a coroutine and kills a process, but cannot end a thread."""
        return self.is_async or self.in_process


def job(
    name: str,
    *,
    queue: str = DEFAULT_QUEUE,
    timeout: float = DEFAULT_TIMEOUT,
    retry: Retry | None = None,
    description: str | None = None,
    not_found: Literal["fail", "retry", "skip"] = "fail",
    runs_in: Literal["process"] | None = None,
    internal: bool = False,
) -> Callable[[Function], Function]:
    """Make a function the handler of type `name`: `def` or `async def`, of (payload, ctx), returning JSON or None.

    The annotation of the first parameter is the payload's type (a pydantic model, a dataclass, a `dict`). The API
    checks submissions against its JSON Schema. `timeout` is in seconds. `async def` handlers run on the event loop,
    `def` handlers in a thread. With `runs_in="process"` both run in a process, which is killed on timeout and cancel;
    it imports the modules of ACCEPTED_HANDLERS. Handlers run at least once; their outcome is recorded once.
    `not_found` says what `NotFound` means for the type: "fail", "retry", or "skip" (the job succeeds with
    {"skipped": true}). Raises `ConfigurationError` for a wrong name or option.
    """

    if not re.fullmatch(TYPE_PATTERN, name) or not re.fullmatch(QUEUE_PATTERN, queue):
        raise ConfigurationError(f"{name!r} on queue {queue!r}: not a valid name for a type or a queue")
    if queue == WEBHOOK_QUEUE and not internal:
        raise ConfigurationError(f"{name!r}: {RESERVED_QUEUE}")
    if runs_in not in (None, "process"):
        raise ConfigurationError(f"{name!r}: runs_in must be process, or left out")
    if not is_duration(timeout):
        raise ConfigurationError(f"{name!r}: timeout must be a number of seconds above 0, at most {LONGEST_WAIT:g}")
    if not_found not in set(OnNotFound):
        raise ConfigurationError(f"{name!r}: not_found must be one of {', '.join(OnNotFound)}")

    def decorate(function: Function) -> Function:
        from pydantic import TypeAdapter

        adapter = TypeAdapter(_payload_type(name, function))
        text = description or inspect.cleandoc(function.__doc__ or "").partition("\n")[0]
        kind = JobType(
            name=name,
            description=storable(text, MAX_DESCRIPTION),
            queue=queue,
            retry=retry or Retry(),
            timeout=timeout,
            payload_schema=_schema(name, adapter),
            internal=internal,
            not_found=OnNotFound(not_found),
        )
        handler = Handler(kind, function, adapter, inspect.iscoroutinefunction(function), runs_in == "process")
        setattr(function, MARK, handler)
        return function

    return decorate


def handler_of(function: object) -> Handler:
    """What `@job` has made of this function. Raises `ConfigurationError` for one that is no handler."""
    found: Handler | None = getattr(function, MARK, None)
    if found is None:
        raise ConfigurationError(f"{getattr(function, '__qualname__', function)!r} is no handler: it has no @job")
    return found


def handlers_in(module: ModuleType) -> list[Handler]:
    """The handlers that a module has under any name."""
    return [value.__dict__[MARK] for value in vars(module).values() if MARK in getattr(value, "__dict__", {})]


def _schema(name: str, adapter: "TypeAdapter[Any]") -> str:
    from accepted.payload_types import PayloadSchema

    try:
        return msgspec.json.encode(adapter.json_schema(schema_generator=PayloadSchema)).decode()
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"{name!r}: there is no JSON Schema of its payload: {reason}") from error


def _payload_type(name: str, function: Callable[..., Any]) -> Any:
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) != 2:
        raise ConfigurationError(f"the handler of {name!r} must take (payload, ctx)")
    return get_type_hints(function).get(parameters[0], dict[str, Any])
