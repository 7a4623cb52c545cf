"""A form made from the JSON Schema of a payload: a field for each property, of the kind that its schema asks for.

What a field cannot say (an object, a list, several types) is typed as JSON. A field that is left empty is left out.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from accepted.dashboard.forms import raw, typed
from accepted.dashboard.hiding import Hiding

PREFIX = "payload."
"""Of the names of the fields in the form."""

Schema = Mapping[str, Any]


class SchemaField(NamedTuple):
    """A property of the payload. `kind`: text, area, number, choice or json. `hidden`: no page shows its value."""

    name: str
    kind: str
    required: bool
    hint: str
    choices: tuple[str, ...] = ()
    hidden: bool = False

    @property
    def field(self) -> str:
        return PREFIX + self.name


def fields_of(schema: Schema) -> list[SchemaField] | None:
    """None if the schema names no properties: then the payload is typed as JSON."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties or "$ref" in schema:
        return None
    required = set(schema.get("required", ()))
    hiding = Hiding(schema)
    return [
        _field(name, of, name in required)._replace(hidden=hiding.hides(schema) or hiding.hides(of))
        for name, of in properties.items()
    ]


def payload_of(fields: list[SchemaField], given: Mapping[str, str]) -> dict[str, object]:
    """The payload that was typed, for the API to judge."""
    return {one.name: _value(one, given[one.field]) for one in fields if given.get(one.field)}


def _field(name: str, schema: Any, required: bool) -> SchemaField:
    of = _without_null(schema if isinstance(schema, Mapping) else {})
    hint = str(of.get("description") or "")
    if isinstance(of.get("enum"), list) and all(isinstance(one, str) for one in of["enum"]):
        return SchemaField(name, "choice", required, hint, tuple(of["enum"]))
    if of.get("type") == "boolean":
        return SchemaField(name, "json", required, hint, ("true", "false"))
    if of.get("type") in ("number", "integer"):
        return SchemaField(name, "number", required, hint)
    if of.get("type") == "string":
        is_long = "maxLength" not in of and "format" not in of
        return SchemaField(name, "area" if is_long or of.get("maxLength", 0) > 5000 else "text", required, hint)
    return SchemaField(name, "json", required, hint)


def _without_null(schema: Schema) -> Schema:
    """The one type of "this or null"."""
    others = [one for one in schema.get("anyOf", ()) if isinstance(one, Mapping) and one.get("type") != "null"]
    if len(others) == 1 and "type" not in schema:
        return {**schema, **others[0]}
    return schema


def _value(field: SchemaField, text: str) -> object:
    if field.kind == "number":
        return typed(text)
    return raw(text) if field.kind == "json" else text
