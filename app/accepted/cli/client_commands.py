"""What each command that calls the HTTP API has: --url and --api-key; and where both come from else."""

import functools
import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from accepted.environment import DOT_ENV, PREFIX

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS = {
    "url": Annotated[str | None, typer.Option("--url", help=f"Overrides {PREFIX}URL.")],
    "api_key": Annotated[str | None, typer.Option("--api-key", help=f"Overrides {PREFIX}API_KEY.")],
}

_given: dict[str, str | None] = {}
"""The options of the command that runs: a process runs one at a time."""


def client_setting(name: str) -> str:
    """`url` or `api_key`: the option, else the environment variable, else the line in `.env`, else empty."""
    variable = PREFIX + name.upper()
    return _given.get(name) or os.environ.get(variable) or _in_file(variable) or ""


def client_options() -> bool:
    """Whether an option of the command that runs says which service it is for."""
    return any(_given.values())


def calls_the_api(command: Command) -> Command:
    """The same command, with `OPTIONS`."""

    @functools.wraps(command)
    def with_options(**values: Any) -> Any:
        _given.update({name: values.pop(name, None) for name in OPTIONS})
        return command(**values)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in OPTIONS.items()
    ]
    with_options.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    return with_options  # type: ignore[return-value]


class ClientCommands(typer.Typer):
    """A group of commands that call the HTTP API."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Command], Command]:
        register = super().command(name, **options)

        def add(command: Command) -> Command:
            register(calls_the_api(command))
            return command

        return add


def _in_file(variable: str) -> str | None:
    if not os.path.exists(DOT_ENV):
        return None
    from dotenv import dotenv_values

    values = {name.upper(): value for name, value in dotenv_values(DOT_ENV).items()}
    return values.get(variable)
