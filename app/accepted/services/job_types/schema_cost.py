"""What it costs to validate a payload: a bound that is known before the validator runs.

The validator holds the event loop from its first step to its last, and a thread would not help: it holds the
interpreter's lock too. So a payload is validated only if its values, times the parts of the schema that can apply to
one value, stay within a budget. Python's own work on an error costs more, so all errors are listed only where few are
possible.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import jsonschema_rs
import msgspec

from accepted.errors import FieldError, InvalidRequest

MAX_STEPS = 2_000_000
"""Steps for one payload, of 7 to 15 ns each."""

MAX_LISTED_STEPS = 10_000
"""Steps up to which every error is looked for. An error costs 4 µs; beyond them only the first is named."""

FORMAT_STEPS = 500
"""Steps for a text that Python checks: a URL, or a format as Pydantic reads it."""

MAX_WEIGHT = 20_000
"""Parts of a client's schema that may apply to one value: a payload of a hundred values can then be validated."""

PATTERN_STEPS = ((2**12, 6), (2**14, 12), (2**16, 25), (2**18, 50))
"""Steps for each byte of a text, by the bytes of the compiled pattern."""

TOO_LARGE = f"is too large for its type's schema: to validate it may take more than {MAX_STEPS} steps"

LEVELS = 64
"""Levels of a payload, along which a schema that refers back to itself can add up."""

_STRUCTURE = bytes(set(range(256)) - set(b",[{"))
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)

_Own: TypeAlias = Callable[[Mapping[str, Any]], int]


class SchemaCost:
    """The cost of one schema. Reads a schema whose references are local; others count nothing."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        compiled = _Patterns()
        parts, formats, patterns = (_Weights(schema, own) for own in (_parts, _formats, compiled.steps))
        self._parts = parts.of(schema).most
        self._format_steps = formats.of(schema).most
        self._byte_steps = patterns.of(schema).most
        self._here = parts.of(schema).here + formats.of(schema).here
        self._by_property: dict[str, tuple[int, int]] | None = None
        if not _has_more_than_properties(schema):
            self._by_property = {
                name: (parts.of(one).most + formats.of(one).most, patterns.of(one).most)
                for name, one in schema.get("properties", {}).items()
                if isinstance(one, dict)
            }
        self.pattern_bytes = compiled.bytes
        """Bytes of its compiled patterns, at most."""

    @property
    def weight(self) -> int:
        """Steps for one value, at most."""
        return self._parts + self._format_steps

    def check(self, payload: object, encoded: bytes) -> bool:
        """Whether every error may be looked for. Raises `InvalidRequest` for a payload beyond the budget.

        `encoded` is the payload without whitespace.
        """
        values = _values(encoded)
        steps = values * self.weight + len(encoded) * self._byte_steps
        if steps > MAX_STEPS and self._exact(payload, encoded) > MAX_STEPS:
            raise InvalidRequest([FieldError("/payload", TOO_LARGE)])
        return values * self._parts <= MAX_LISTED_STEPS

    def _exact(self, payload: object, encoded: bytes) -> int:
        """As the product, with text that only looks like values left out, and each property by its own schema."""
        if self._by_property is None or not isinstance(payload, dict):
            return _exact_values(encoded) * self.weight + len(encoded) * self._byte_steps
        steps = self._here + len(payload)
        for name, (for_value, for_byte) in self._by_property.items():
            if name in payload and for_value + for_byte:
                part = msgspec.json.encode(payload[name])
                steps += _exact_values(part) * for_value + len(part) * for_byte
        return steps


def _has_more_than_properties(schema: Mapping[str, Any]) -> bool:
    """Whether parts besides `properties` apply to the members of an object."""
    asked = (*_LISTS, *_SINGLE, *_UNEVALUATED, "$ref", "dependentSchemas", "dependencies", "patternProperties")
    return any(key in schema for key in asked) or any(isinstance(schema.get(key), dict) for key in _CHILDREN)


def _values(encoded: bytes) -> int:
    """At least the number of values in a JSON text."""
    return 1 + encoded.count(b",") + encoded.count(b"[") + encoded.count(b"{")


def _exact_values(encoded: bytes) -> int:
    return 1 + len(_QUOTED.sub(b"", encoded).translate(None, _STRUCTURE))


class _Weight(msgspec.Struct, frozen=True):
    """`here`: steps for a value itself; `below`: at most, for one value in it. `back`: refers to a part around it."""

    here: int = 0
    below: int = 0
    back: bool = False

    @property
    def most(self) -> int:
        return max(self.here, self.below)


_LISTS = ("allOf", "anyOf", "oneOf")
_SINGLE = ("not", "if", "then", "else")
_CHILDREN = (
    "additionalProperties", "propertyNames", "items", "additionalItems", "contains", "unevaluatedProperties",
    "unevaluatedItems",
)  # fmt: skip
_UNEVALUATED = ("unevaluatedProperties", "unevaluatedItems")
_BY_NAME = ("properties", "patternProperties", "dependentSchemas", "dependencies")
_NESTED = frozenset((*_LISTS, *_SINGLE, *_CHILDREN, *_BY_NAME, "prefixItems", "$ref"))
"""Keywords with schemas that apply to the value or to what is in it."""

_NOTHING = _Weight()


class _Weights:
    """The weights of the parts of one schema; each part is weighed once."""

    def __init__(self, schema: Mapping[str, Any], own: _Own) -> None:
        self._schema = schema
        self._own = own
        self._known: dict[int, _Weight] = {}
        self._open: set[int] = set()

    def of(self, part: Any) -> _Weight:
        if not isinstance(part, dict):
            return _Weight(self._own({})) if isinstance(part, bool) else _NOTHING
        if part.keys().isdisjoint(_NESTED):
            return _Weight(self._own(part))
        if id(part) in self._open:
            return _Weight(back=True)
        if id(part) not in self._known:
            self._open.add(id(part))
            self._known[id(part)] = self._weigh(part)
            self._open.discard(id(part))
        return self._known[id(part)]

    def _weigh(self, part: dict[str, Any]) -> _Weight:
        beside = [self.of(one) for one in self._beside(part)]
        inside = [self._largest(part.get("properties")), *self._inside(part)]
        here = self._own(part) + sum(one.here for one in beside)
        terms = [*(one.below for one in beside), *(one.most for one in inside)]
        back = any(one.back for one in (*beside, *inside))
        below = sum(terms) * (LEVELS if back and sum(term > 0 for term in terms) > 1 else 1)
        if any(key in part for key in _UNEVALUATED):  # what is beside it is asked again, for each value inside
            below = 2 * below + here
        return _Weight(here, below, back)

    def _beside(self, part: dict[str, Any]) -> Iterator[Any]:
        """Schemas that apply to the same value."""
        for key in _LISTS:
            yield from _list(part.get(key))
        for key in _SINGLE:
            yield part.get(key)
        for key in ("dependentSchemas", "dependencies"):
            yield from _members(part.get(key))
        yield self._target(part.get("$ref"))

    def _inside(self, part: dict[str, Any]) -> Iterator[_Weight]:
        """The weights of schemas that may all apply to one member or item."""
        for one in _members(part.get("patternProperties")):
            yield self.of(one)
        for key in _CHILDREN:
            value = part.get(key)
            yield self._largest(value) if isinstance(value, list) else self.of(value)
        yield self._largest(part.get("prefixItems"))

    def _largest(self, schemas: Any) -> _Weight:
        """Of schemas of which one applies to a value."""
        found = [self.of(one) for one in (_members(schemas) if isinstance(schemas, dict) else _list(schemas))]
        here, below = max((w.here for w in found), default=0), max((w.below for w in found), default=0)
        return _Weight(here, below, any(w.back for w in found))

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        part: Any = self._schema
        for step in reference[2:].split("/") if len(reference) > 1 else ():
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(part, list) and name.isdecimal() and int(name) < len(part):
                part = part[int(name)]
            else:
                part = part.get(name) if isinstance(part, dict) else None
        return part


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()


def _members(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else ()


def _parts(part: Mapping[str, Any]) -> int:
    """The part itself, its keywords, and what can be missing: each name has an error of its own."""
    return 1 + len(part) + sum(1 for _ in _list(part.get("required")))


def _formats(part: Mapping[str, Any]) -> int:
    return FORMAT_STEPS if "format" in part else 0


class _Patterns:
    """The patterns of one schema; each is compiled once, by growing limits of its size."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int]] = {}

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self._known.values())

    def steps(self, part: Mapping[str, Any]) -> int:
        """For each byte of a text, or of a member's name."""
        patterns = [part["pattern"]] if isinstance(part.get("pattern"), str) else []
        named = part.get("patternProperties")
        return sum(map(self._steps_a_byte, [*patterns, *(named if isinstance(named, dict) else ())]))

    def _steps_a_byte(self, pattern: str) -> int:
        if pattern not in self._known:
            self._known[pattern] = _measured(pattern)
        return self._known[pattern][1]


def _measured(pattern: str) -> tuple[int, int]:
    """The row of `PATTERN_STEPS` for this pattern."""
    for size, steps in PATTERN_STEPS:
        try:
            jsonschema_rs.validator_for(
                {"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions(size_limit=size), offline=True
            )
        except (jsonschema_rs.ValidationError, ValueError):
            continue
        return size, steps
    return PATTERN_STEPS[-1]
