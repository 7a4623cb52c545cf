"""Query parameters that an operation does not know are refused, with the nearest name: a typo must not be silent."""

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import BeforeValidator
from starlette.requests import Request

from accepted.domain.json_text import escape_pointer
from accepted.domain.nearest import did_you_mean
from accepted.errors import FieldError, InvalidRequest


def _digits(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]+", value):
        raise ValueError("must be a whole number")
    return value


Whole = Annotated[int, BeforeValidator(_digits)]
"""A number as people write it: Python's own reading takes 1_0 and 1.0, too."""


def only_query(*known: str) -> Callable[[Request], None]:
    """A dependency of an operation that takes no query parameters but `known`."""

    def dependency(request: Request) -> None:
        refuse_unknown_query(request, *known)

    return dependency


def refuse_unknown_query(request: Request, *known: str) -> None:
    """Raise `InvalidRequest` for every query parameter that is not in `known`."""
    if not request.scope["query_string"]:
        return
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise InvalidRequest([_unknown(name, known) for name in unknown[:20]])


def _unknown(name: str, known: tuple[str, ...]) -> FieldError:
    return FieldError(f"/{escape_pointer(name)}", f"unknown query parameter{did_you_mean(name, known)}")
