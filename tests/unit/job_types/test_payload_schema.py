"""A client's JSON Schema: bounded, never fetched, and refused with a pointer."""

from typing import Any

import pytest

from accepted.errors import InvalidRequest
from accepted.services.job_types import payload_schema
from accepted.services.job_types.payload_schema import MAX_PATTERNS, check_schema

TREE = {"$defs": {"node": {"properties": {"children": {"items": {"$ref": "#/$defs/node"}}}}}, "$ref": "#/$defs/node"}


def chain(length: int, times: int) -> dict[str, Any]:
    """Each definition refers to the next one `times` times."""
    ends = {f"d{length}": {"type": "object"}}
    links = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * times} for i in range(length)}
    return {"$defs": {**links, **ends}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/mine"},
        {"$schema": "http://json-schema.org/draft-07/schema#"},
        {"properties": {"$ref": {"type": "string"}, "pattern": {"type": "string"}}},
        {"enum": [{"$ref": "http://example.com/data, not a reference"}]},
        {"properties": {"a": {"pattern": r"^\w{1,64}$"}}},
        TREE,
        {"properties": {"a": {"$ref": "#/$defs/node"}, "b": {"$ref": "#/$defs/node"}}, **TREE},
        {"properties": {"self": {"$ref": "#"}}},
        chain(20, 1),
    ],
)
def test_what_is_taken(schema: dict[str, Any]) -> None:
    check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"type": "objec"}, "/payload_schema/type"),
        ({"properties": {"a/b": {"minimum": "x"}}}, "/payload_schema/properties/a~1b/minimum"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}, "/payload_schema/properties/a/$ref"),
        ({"$ref": "file:///etc/passwd"}, "/payload_schema/$ref"),
        ({"$ref": "#/$defs/nowhere"}, "/payload_schema/$ref"),
        ({"$ref": "#anchor"}, "/payload_schema/$ref"),
        ({"$dynamicRef": "#x"}, "/payload_schema/$dynamicRef"),
        ({"$defs": {"a": {"$id": "http://x/y"}}, "allOf": [{"$ref": "#/$defs/a"}]}, "/payload_schema/allOf/0/$ref/$id"),
        ({"$schema": "http://127.0.0.1:9/meta"}, "/payload_schema/$schema"),
        ({"properties": {"a": {"pattern": "("}}}, "/payload_schema/properties/a/pattern"),
        ({"properties": {"a": {"pattern": "^(?=(a+)+$)"}}}, "/payload_schema/properties/a/pattern"),
        ({"pattern": "(((a{1,100}){1,100}){1,100}){1,100}"}, "/payload_schema/pattern"),
        ({"allOf": [{"pattern": "a"}] * (MAX_PATTERNS + 1)}, f"/payload_schema/allOf/{MAX_PATTERNS}/pattern"),
        (chain(20, 2), "/payload_schema"),
        (chain(3000, 1), "/payload_schema"),
        (
            {"$defs": {"n": {"allOf": [{"items": {"$ref": "#/$defs/n"}}] * 2}}, "items": {"$ref": "#/$defs/n"}},
            "/payload_schema/items/$ref",
        ),
        ({"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}}, "/payload_schema"),
    ],
)
def test_what_is_refused(schema: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_schema(schema)
    assert [error.pointer for error in refused.value.errors] == [pointer]


def test_no_value_is_echoed() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_schema({"properties": {"a": {"type": "CanaryValue7"}}})
    assert "CanaryValue7" not in str(refused.value.errors)


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the walk would accept the reference."""
    monkeypatch.setattr(payload_schema._Unfolding, "measure", lambda self: None)
    with pytest.raises(InvalidRequest) as refused:
        check_schema({"$ref": "http://127.0.0.1:9/x"})
    assert "disabled" in refused.value.errors[0].detail
