"""JSON Schemas of payloads: how they are compiled, and the limits of a schema that a client sends.

Every submission of the type is validated against the schema, so a client's schema is limited: it refers only to itself,
its patterns run in linear time, and its size is bounded after every reference is followed. Nothing is fetched.
"""

from collections.abc import Callable
from itertools import islice, pairwise
from typing import Any, TypeAlias

import jsonschema_rs
import msgspec

from accepted.domain import json_text
from accepted.domain.json_text import escape_pointer
from accepted.errors import FieldError, InvalidRequest
from accepted.services.job_types.schema_cost import MAX_WEIGHT, SchemaCost

POINTER = "/payload_schema"

MAX_NODES = 10_000
"""Members and items of a schema after every reference in it is followed. Forty definitions that each refer twice to the
next would take a million million steps for one payload."""

MAX_DEPTH = 100
"""Levels, counted in the same way."""

MAX_PATTERNS = 100
MAX_PATTERN_BYTES = 2**18
"""Bytes of one compiled pattern."""

MAX_ERRORS = 20
"""Errors of one payload in an answer."""

MAX_QUOTED = 200
"""Characters of a schema that the message about it quotes."""

DIALECTS = ("https://json-schema.org/draft/2020-12/schema", "https://json-schema.org/draft/2019-09/schema",
            "http://json-schema.org/draft-07/schema")  # fmt: skip
"""Allowed values of `$schema`. The first is the default."""

_DATA = frozenset({"enum", "const", "default", "examples", "example"})
"""Keywords whose value is not a schema."""

_APART = frozenset({"$defs", "definitions"})
"""Keywords whose schemas are walked where they are referred to."""

_ELSEWHERE = ("$dynamicRef", "$recursiveRef")

Formats: TypeAlias = dict[str, Callable[[str], bool]]
_Path: TypeAlias = list[str | int]


def compile_schema(schema: dict[str, Any], formats: Formats, *, of_client: bool) -> Any:
    """The validator. Raises `jsonschema_rs.ValidationError` for a schema that is not valid."""
    patterns = jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES) if of_client else None
    return jsonschema_rs.validator_for(
        schema, formats=formats, validate_formats=True, mask="the value", offline=True, pattern_options=patterns
    )


class PayloadValidator:
    """A compiled schema, with the bounds within which it may run."""

    def __init__(self, schema: dict[str, Any], formats: Formats, *, of_client: bool) -> None:
        self._compiled = compile_schema(schema, formats, of_client=of_client)
        self._cost = SchemaCost(schema)

    @property
    def pattern_bytes(self) -> int:
        """Bytes of its compiled patterns, at most."""
        return self._cost.pattern_bytes

    def errors(self, payload: object, encoded: bytes) -> list[Any]:
        """The first `MAX_ERRORS` errors; of a large payload, the first one. None for a valid payload.

        `encoded` is the payload without whitespace. Raises `InvalidRequest` for one beyond the budget of the schema.
        """
        lists_all = self._cost.check(payload, encoded)
        if self._compiled.is_valid(payload):
            return []
        if lists_all:
            return list(islice(self._compiled.iter_errors(payload), MAX_ERRORS))
        try:
            self._compiled.validate(payload)
        except jsonschema_rs.ValidationError as error:
            return [error]
        return []


class SchemaFlaw(ValueError):
    """A registered payload schema cannot be used. The text names the field, and quotes that part of the schema."""


def read_schema(text: str, formats: Formats, *, of_client: bool) -> tuple[dict[str, Any], PayloadValidator]:
    """A registered schema, and its validator. Raises `SchemaFlaw`."""
    try:
        schema = msgspec.json.decode(text)
        if not isinstance(schema, dict):
            raise SchemaFlaw("its payload schema is not an object")
        return schema, PayloadValidator(schema, formats, of_client=of_client)
    except jsonschema_rs.ValidationError as error:
        path = list(error.instance_path)
        where = f"field {field!r} of its payload schema" if (field := _field(path)) else "its payload schema"
        part = f" ({'/'.join(map(str, path))}: {_part(schema, path)})" if path else ""
        raise SchemaFlaw(f"{where} is not valid JSON Schema{part}: {error.message}") from None
    except SchemaFlaw:
        raise
    except Exception as error:  # whatever lies in the ledger: it is this type's problem alone
        raise SchemaFlaw(f"its payload schema cannot be compiled: {type(error).__name__}") from None


def _field(path: _Path) -> str:
    """The field of the payload that a path into a schema leads to, such as `document.kind`."""
    return ".".join(str(name) for step, name in pairwise(path) if step in ("properties", *_APART))


def _part(schema: Any, path: _Path) -> str:
    for step in path:
        schema = schema[step]
    text = json_text.encode(schema).decode()
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"


def check_schema(schema: dict[str, Any]) -> None:
    """Raise `InvalidRequest` for a client's schema that is not valid or exceeds a limit."""
    dialect = schema.get("$schema")
    if isinstance(dialect, str) and dialect.rstrip("#") not in DIALECTS:
        raise _wrong(["$schema"], f"must be left out, or one of {', '.join(DIALECTS)}")
    _Unfolding(schema).measure()
    try:
        compile_schema(schema, {}, of_client=True)
    except jsonschema_rs.ValidationError as error:
        raise _wrong(error.instance_path, f"is not a valid JSON Schema: {error.message}") from None
    except ValueError:
        raise _wrong([], "is not a valid JSON Schema") from None
    if (weight := SchemaCost(schema).weight) > MAX_WEIGHT:
        raise _wrong([], f"up to {weight} parts of it apply to one value, and {MAX_WEIGHT} may")


class _Unfolding:
    """A walk through a schema that follows its references as a validator does.

    A part may refer back to itself by one path only: two would double the work with each level of a payload.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._nodes = 0
        self._patterns = 0
        self._open: list[int] = [id(schema)]

    def measure(self) -> None:
        self._check_single_path(self._walk(self._schema, []), [])

    def _walk(self, node: Any, path: _Path) -> list[int]:
        """The ids of the open parts around `node` that it refers back to, each as often as it does."""
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise _wrong([], f"has more than {MAX_NODES} parts or {MAX_DEPTH} levels after its references are followed")
        if isinstance(node, list):
            return [back for index, item in enumerate(node) for back in self._walk(item, [*path, index])]
        if isinstance(node, dict):
            return [back for key, value in node.items() for back in self._member(key, value, [*path, key])]
        return []

    def _member(self, key: str, value: Any, path: _Path) -> list[int]:
        if key == "$ref" and isinstance(value, str):
            return self._follow(value, path)
        if key in _ELSEWHERE or (key == "$id" and isinstance(value, str) and len(path) > 1):
            raise _wrong(path, "is not supported: refer to parts of this schema, as #/$defs/name")
        if key in ("pattern", "patternProperties"):
            self._patterns += len(value) if isinstance(value, dict) else 1
            if self._patterns > MAX_PATTERNS:
                raise _wrong(path, f"more than {MAX_PATTERNS} patterns")
        return [] if key in _DATA or (key in _APART and len(path) == 1) else self._walk(value, path)

    def _follow(self, reference: str, path: _Path) -> list[int]:
        target = self._resolve(reference, path)
        if id(target) in self._open:
            return [id(target)]
        self._open.append(id(target))
        back = self._walk(target, path)
        self._open.pop()
        self._check_single_path(back, path)
        return [one for one in back if one != id(target)]

    def _check_single_path(self, back: list[int], path: _Path) -> None:
        if len(back) > 1:
            raise _wrong(path, "refers back to itself by more than one path")

    def _resolve(self, reference: str, path: _Path) -> Any:
        if reference != "#" and not reference.startswith("#/"):
            raise _wrong(path, "must point into this schema, as #/$defs/name: nothing is fetched")
        node: Any = self._schema
        for step in reference[2:].split("/") if len(reference) > 1 else ():
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            elif isinstance(node, dict) and name in node:
                node = node[name]
            else:
                raise _wrong(path, "points to nothing")
        return node


def _wrong(path: _Path, detail: str) -> InvalidRequest:
    return InvalidRequest([FieldError(POINTER + "".join(f"/{escape_pointer(str(step))}" for step in path), detail)])
