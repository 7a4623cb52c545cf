"""Finds the handlers of job types in the modules that ACCEPTED_HANDLERS names."""

import importlib
import os
import sys
from collections.abc import Iterable
from types import ModuleType

from accepted import extras
from accepted.errors import ConfigurationError
from accepted.handler import Handler, handlers_in
from accepted.settings import Settings

BUILT_IN = "accepted_worker.handlers"

BUILT_IN_IN_CONTRACT = "workers.handlers"
"""The name of the built-in handlers in section 2 of the contract. A user's own module of that name comes first."""

SLEEP = "accepted_worker.handlers.sleep"
"""Built in as well, but served only where it is named, or where everybody is trusted."""


def make_working_directory_importable() -> None:
    """Put the working directory first on `sys.path`, as uvicorn and celery do."""
    if (directory := os.getcwd()) not in sys.path:
        sys.path.insert(0, directory)


def modules_of(settings: Settings) -> tuple[str, ...]:
    """The modules whose handlers a worker serves.

    With authentication off there is one tenant, so nobody takes the slots of another one by `sleep`.
    """
    trusted = settings.auth == "off" and {BUILT_IN, BUILT_IN_IN_CONTRACT} & {*settings.handlers}
    return (*settings.handlers, SLEEP) if trusted else settings.handlers


def load(modules: Iterable[str]) -> dict[str, Handler]:
    """The handlers by type name. Raises `ConfigurationError` if a module fails or a type has two handlers."""
    found: dict[str, Handler] = {}
    for module in modules:
        for handler in _handlers_in(module):
            other = found.setdefault(handler.type.name, handler)
            if other.function is not handler.function:
                raise ConfigurationError(f"two handlers for type {handler.type.name!r}")
    return found


def _handlers_in(module: str) -> list[Handler]:
    try:
        loaded = _imported(module)
    except Exception as error:
        advice = extras.advice(error) if isinstance(error, ModuleNotFoundError) else None
        reason = advice or f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"ACCEPTED_HANDLERS: cannot import {module!r}: {reason}") from error
    return handlers_in(loaded)


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if module == BUILT_IN_IN_CONTRACT and error.name in (module, module.partition(".")[0]):
            return importlib.import_module(BUILT_IN)
        raise
