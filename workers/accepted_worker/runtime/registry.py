"""Which handler runs which type: found in the modules that ACCEPTED_HANDLERS names."""

import importlib
from collections.abc import Iterable

from accepted.errors import ConfigurationError
from accepted.handler import MARK, Handler


def load(modules: Iterable[str]) -> dict[str, Handler]:
    """The handlers by type name. Raises `ConfigurationError` for a module that fails or a type with two handlers."""
    found: dict[str, Handler] = {}
    for module in modules:
        for handler in _handlers_in(module):
            other = found.setdefault(handler.type.name, handler)
            if other.function is not handler.function:
                raise ConfigurationError(f"two handlers for type {handler.type.name!r}")
    return found


def _handlers_in(module: str) -> list[Handler]:
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        raise ConfigurationError(
            f"ACCEPTED_HANDLERS: cannot import {module!r}: {type(error).__name__}: {error}"
        ) from error
    return [value.__dict__[MARK] for value in vars(loaded).values() if MARK in getattr(value, "__dict__", {})]
