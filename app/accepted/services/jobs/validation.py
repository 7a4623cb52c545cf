"""Turns pydantic's errors into `InvalidRequest`, with JSON pointers into the body and no value echoed.

pydantic's messages say what was expected, not what came; `_MESSAGES` rewords the exceptions. The text of a `ValueError`
that one of our validators raises is shown as it is, so it must not quote its input.
"""

from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from accepted.domain.json_text import escape_pointer
from accepted.errors import FieldError, Hints, InvalidRequest

MAX_LISTED = 20
"""Errors in one answer."""

MAX_ERRORS = 1000
"""Errors beyond which none is listed: that would cost seconds."""

MAX_POINTER = 256
"""Characters. An unknown field may have a name of any length."""

Model = TypeVar("Model", bound=BaseModel)
_Loc: TypeAlias = "tuple[int | str, ...]"

_MESSAGES = {
    "missing": "required",
    "extra_forbidden": "unknown field",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
    "list_type": "must be an array",
    "string_type": "must be a string",
    "union_tag_invalid": "is not one of the known kinds",
    "uuid_parsing": "must be a UUID",
    "datetime_parsing": "must be an RFC 3339 date and time with an offset",
    "datetime_from_date_parsing": "must be an RFC 3339 date and time with an offset",
    "timezone_aware": "must have an offset, such as Z or +02:00",
}


def invalid(exc: ValidationError, model: type[BaseModel], prefix: str = "") -> InvalidRequest:
    """`exc`, which `model` raised, with pointers under `prefix` (such as `/jobs/3`); at most `MAX_LISTED` errors."""
    if exc.error_count() > MAX_ERRORS:
        return InvalidRequest([FieldError(prefix, f"more than {MAX_ERRORS} errors")])
    found: dict[str, list[str]] = {}
    hints = Hints()
    for error in exc.errors(include_url=False, include_input=False):
        pointer, detail = _field_error(error, model, prefix, hints)
        details = found.setdefault(pointer, [])  # each member of a union has an error of its own
        if detail not in details:
            details.append(detail)
        if len(found) == MAX_LISTED:
            break
    return InvalidRequest([FieldError(pointer, " or ".join(details)) for pointer, details in found.items()])


def checked(model: type[Model], parsed: Any) -> Model:
    """`parsed`, validated as a `model`. Raises `InvalidRequest`."""
    try:
        return model.model_validate(parsed)
    except ValidationError as error:
        raise invalid(error, model) from None


def shortened(pointer: str) -> str:
    """At most `MAX_POINTER` characters: a name in a payload may have any length."""
    return pointer[:MAX_POINTER]


def describe(error: Any) -> str:
    """One pydantic error (an item of `errors()`) in words, without anything of the input."""
    text = _MESSAGES.get(error["type"])
    if text is None:
        text = error["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)
    return str(text)


def _field_error(error: Any, model: type[BaseModel], prefix: str, hints: Hints) -> tuple[str, str]:
    steps, owner = _steps(error["loc"], model)
    pointer = prefix + "".join(f"/{escape_pointer(str(step))}" for step in steps)
    detail = describe(error)
    if error["type"] == "extra_forbidden" and owner is not None:
        detail += hints.about(str(steps[-1]), _names(owner))
    return shortened(pointer), detail


def _steps(loc: _Loc, model: type[BaseModel]) -> tuple[list[int | str], type[BaseModel] | None]:
    """The steps of `loc` that are in the body, and the model whose field the last one is.

    pydantic adds labels of its own to a location: the member of a union that it tried, and `[key]`.
    """
    steps: list[int | str] = []
    here: Any = model
    owner = None
    for step in loc:
        here, members = _plain(here)
        if members:
            here = next((member for member in members if getattr(member, "__name__", None) == step), None)
        elif step != "[key]":
            owner = here if _is_model(here) else None
            here = _into(here, step)
            steps.append(step)
    return steps, owner


def _plain(annotation: Any) -> tuple[Any, list[Any]]:
    """`annotation` without Annotated and Optional; its members when it is a real union."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, UnionType):
        return annotation, []
    members = [member for member in get_args(annotation) if member is not NoneType]
    return _plain(members[0]) if len(members) == 1 else (annotation, members)


def _into(annotation: Any, step: int | str) -> Any:
    """The declared type of the field, key or index `step` of `annotation`; None when it is not declared."""
    if _is_model(annotation):
        fields = annotation.model_fields
        return next((f.annotation for name, f in fields.items() if step in (name, f.alias)), None)
    arguments = get_args(annotation)
    return arguments[-1] if arguments else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
