"""Which values of a payload no page shows: those whose JSON Schema says `"writeOnly": true` or `"format": "password"`.

Both are annotations of JSON Schema, and what Pydantic writes for a SecretStr. They count for the whole payload, and for
a property or an item at any depth, also behind references and in alternatives. Where it is not certain which part of
the schema is meant, the value is hidden. The other values stay as they are stored, byte by byte.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

HIDDEN = "••••••"
"""What a page shows instead of a value."""

Schemas = tuple[Mapping[str, Any], ...]
"""Parts of a schema that may all be about one value."""

Members = dict[str, msgspec.Raw]

_HIDDEN_JSON = msgspec.json.encode(HIDDEN)

_OF_THE_SAME = ("allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas", "dependencies")
_OF_ANY_MEMBER = ("patternProperties",)
"""Patterns are not tried: some are from clients."""
_OF_OTHER_MEMBERS = ("additionalProperties", "unevaluatedProperties")
_OF_OTHER_ITEMS = ("items", "additionalItems", "unevaluatedItems", "contains")

_BY_NAME = frozenset({"dependentSchemas", "dependencies", "patternProperties"})
"""Keywords with several schemas, each by a name."""

_DATA = frozenset({"enum", "const", "default", "examples", "example"})
"""Keywords whose value is no schema."""


class NothingToKeep(ValueError):
    """`HIDDEN` stands where no hidden value was before. The text is the path to it."""


def has_mask(text: str) -> bool:
    """Whether JSON text may have a value that is still `HIDDEN`."""
    return HIDDEN[0] in text or "\\u2022" in text


class Hiding:
    """What the payload schema of one type hides."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._leading: dict[tuple[int, ...], bool] = {}

    def hides(self, schema: Any) -> bool:
        """Whether values are hidden that this part of the schema is about."""
        return any(_says_so(one) for one in self._about((schema,)))

    def masked(self, payload: bytes) -> bytes:
        """The payload as pages show it."""
        return self._masked(payload, self._about((self._schema,)))

    def restored(self, typed: bytes, stored: bytes) -> bytes:
        """What was `typed` into a form with the masked payload: a value that is still `HIDDEN` is as it was `stored`.

        Items of a list that has another length now are no longer those that they were. Raises `NothingToKeep`, and
        `msgspec.DecodeError` for what is no JSON.
        """
        return self._restored(typed, stored, self._about((self._schema,)), "")

    def _masked(self, raw: bytes, schemas: Schemas) -> bytes:
        if any(map(_says_so, schemas)):
            return _HIDDEN_JSON
        if not self._leads_to_hidden(schemas):
            return raw
        if (members := _members(raw)) is not None:
            return _encoded(
                {name: self._masked(bytes(of), self._of_member(schemas, name)) for name, of in members.items()}
            )
        if (items := _items(raw)) is not None:
            return _encoded([self._masked(bytes(of), self._of_item(schemas, n)) for n, of in enumerate(items)])
        return raw

    def _restored(self, raw: bytes, stored: bytes | None, schemas: Schemas, path: str) -> bytes:
        if any(map(_says_so, schemas)):
            return _kept(raw, stored, path)
        if not self._leads_to_hidden(schemas):
            return raw
        if (members := _members(raw)) is not None:
            before = _members(stored) or {}
            return _encoded({
                name: self._restored(
                    bytes(of), _bytes(before.get(name)), self._of_member(schemas, name), f"{path}/{name}"
                )
                for name, of in members.items()
            })  # fmt: skip
        if (items := _items(raw)) is not None:
            were = _items(stored) or []
            same: Sequence[msgspec.Raw | None] = were if len(were) == len(items) else [None] * len(items)
            return _encoded([
                self._restored(bytes(of), _bytes(same[n]), self._of_item(schemas, n), f"{path}/{n}")
                for n, of in enumerate(items)
            ])  # fmt: skip
        return raw

    def _about(self, schemas: Sequence[Any]) -> Schemas:
        """These schemas, and all that say more about the same value."""
        found: dict[int, Mapping[str, Any]] = {}
        waiting = list(schemas)
        while waiting:
            one = waiting.pop()
            if not isinstance(one, Mapping) or id(one) in found:
                continue
            found[id(one)] = one
            waiting += _parts(one, _OF_THE_SAME)
            waiting.append(self._referred(one.get("$ref")))
        return tuple(found.values())

    def _of_member(self, schemas: Schemas, name: str) -> Schemas:
        found: list[Any] = []
        for one in schemas:
            named = one.get("properties")
            if isinstance(named, Mapping) and name in named:
                found.append(named[name])
            else:
                found += _parts(one, _OF_OTHER_MEMBERS)
            found += _parts(one, _OF_ANY_MEMBER)
        return self._about(found)

    def _of_item(self, schemas: Schemas, number: int) -> Schemas:
        found: list[Any] = []
        for one in schemas:
            listed = one.get("prefixItems", one.get("items"))
            first = listed if isinstance(listed, list) else []
            others = [word for word in _OF_OTHER_ITEMS if not isinstance(one.get(word), list)]
            found += [first[number]] if number < len(first) else _parts(one, others)
        return self._about(found)

    def _leads_to_hidden(self, schemas: Schemas) -> bool:
        """Whether any part of these schemas hides something: else what they are about need not be read."""
        key = tuple(map(id, schemas))
        if key not in self._leading:
            self._leading[key] = any(map(_says_so, self._within(schemas)))
        return self._leading[key]

    def _within(self, schemas: Schemas) -> Iterator[Mapping[str, Any]]:
        seen: set[int] = set()
        waiting: list[Any] = list(schemas)
        while waiting:
            one = waiting.pop()
            if isinstance(one, list):
                waiting += one
            elif isinstance(one, Mapping) and id(one) not in seen:
                seen.add(id(one))
                yield one
                waiting += [value for word, value in one.items() if word not in _DATA]
                waiting.append(self._referred(one.get("$ref")))

    def _referred(self, reference: object) -> Any:
        """The part of the schema that `#/$defs/name` names; nothing for what is elsewhere, which is never fetched."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        node: Any = self._schema
        for step in reference[2:].split("/") if len(reference) > 1 else ():
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list):
                node = node[int(name)] if name.isdecimal() and int(name) < len(node) else None
            else:
                node = node.get(name) if isinstance(node, Mapping) else None
        return node


def _says_so(schema: Mapping[str, Any]) -> bool:
    return schema.get("writeOnly") is True or schema.get("format") == "password"


def _parts(schema: Mapping[str, Any], words: Iterable[str]) -> list[Any]:
    """The schemas that these keywords have."""
    found: list[Any] = []
    for word in words:
        value = schema.get(word)
        if isinstance(value, list):
            found += value
        elif isinstance(value, Mapping):
            found += value.values() if word in _BY_NAME else [value]
    return found


def _kept(raw: bytes, stored: bytes | None, path: str) -> bytes:
    if msgspec.json.decode(raw) != HIDDEN:
        return raw
    if stored is None:
        raise NothingToKeep(path)
    return stored


def _members(raw: bytes | None) -> Members | None:
    return msgspec.json.decode(raw, type=Members) if raw is not None and raw.lstrip()[:1] == b"{" else None


def _items(raw: bytes | None) -> list[msgspec.Raw] | None:
    return msgspec.json.decode(raw, type=list[msgspec.Raw]) if raw is not None and raw.lstrip()[:1] == b"[" else None


def _bytes(raw: msgspec.Raw | None) -> bytes | None:
    return None if raw is None else bytes(raw)


def _encoded(value: Mapping[str, bytes] | Sequence[bytes]) -> bytes:
    if isinstance(value, Mapping):
        return msgspec.json.encode({name: msgspec.Raw(of) for name, of in value.items()})
    return msgspec.json.encode([msgspec.Raw(of) for of in value])
