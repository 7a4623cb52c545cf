"""What it costs to validate a payload is known before: what is beyond the budget is refused, the rest is not."""

import json
from time import thread_time
from typing import Any

import pytest

from accepted.errors import InvalidRequest
from accepted.services.job_types.payload_schema import MAX_ERRORS, PayloadValidator, check_schema
from accepted.services.job_types.schema_cost import MAX_LISTED_STEPS, MAX_STEPS

LONGEST = 0.25
"""Seconds of this thread's time, on a machine that is slow and busy; without the bounds it is many seconds."""


def errors(schema: dict[str, Any], payload: object) -> list[Any]:
    check_schema(schema)
    validator = PayloadValidator(schema, {}, of_client=True)
    encoded = json.dumps(payload, separators=(",", ":")).encode()
    began = thread_time()
    try:
        return validator.errors(payload, encoded)
    finally:
        assert thread_time() - began < LONGEST


def items(schema: dict[str, Any]) -> dict[str, Any]:
    return {"properties": {"a": {"items": schema}}}


TREE = {"properties": {"v": {"type": "integer"}, "c": {"items": {"$ref": "#"}}}}


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        pytest.param(items({"allOf": [{}] * 4900}), {"a": [1] * 60_000}, id="parts that apply to every item"),
        pytest.param(items({"allOf": [True] * 4900}), {"a": [1] * 60_000}, id="parts that say nothing"),
        pytest.param(
            items({"anyOf": [{"properties": {f"p{n}": {}}} for n in range(1200)], "unevaluatedProperties": False}),
            {"a": [{"p1": 1}] * 6000},
            id="parts that are asked again for each property",
        ),
        pytest.param(
            {"$defs": {"d": {"allOf": [{"minimum": n} for n in range(3000)]}}, **items({"$ref": "#/$defs/d"})},
            {"a": [1] * 10_000},
            id="behind a reference",
        ),
        pytest.param(
            {"properties": {"a": {"allOf": [{"pattern": "a[ab]{20}c"}] * 100}}}, {"a": "ab" * 130_000}, id="patterns"
        ),
    ],
)
def test_a_payload_beyond_the_budget_is_refused_unread(schema: dict[str, Any], payload: object) -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MAX_STEPS} steps"):
        errors(schema, payload)


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        pytest.param(
            items({"properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}, "required": ["x", "y"]}),
            {"a": [{"x": 1, "y": 2}] * 15_000},
            id="many small objects",
        ),
        pytest.param(TREE, {"c": [{"v": 1}] * 20_000}, id="a tree"),
        pytest.param({"properties": {"slug": {"pattern": "^[a-z]+$"}}}, {"slug": "x" * 260_000}, id="a long text"),
        pytest.param(
            {"properties": {"url": {"format": "uri"}, "json": {}}},
            {"url": "https://a.example/", "json": [1] * 120_000},
            id="a format beside many values",
        ),
        pytest.param({"properties": {"text": {"type": "string"}}}, {"text": ",[{" * 80_000}, id="text like structure"),
        pytest.param(
            {"properties": {f"p{n}": {"type": "integer"} for n in range(3000)}, "additionalProperties": False},
            {f"p{n}": 1 for n in range(3000)},
            id="every property of a large type",
        ),
    ],
)
def test_what_people_send_is_within_the_budget(schema: dict[str, Any], payload: object) -> None:
    assert errors(schema, payload) == []


def test_of_a_large_payload_the_first_error_is_named() -> None:
    schema = items({"type": "integer"})
    assert len(errors(schema, {"a": ["x"] * 100})) == MAX_ERRORS
    (first,) = errors(schema, {"a": ["x"] * (MAX_LISTED_STEPS + 1)})
    assert list(first.instance_path) == ["a", 0]


def test_a_schema_of_too_many_parts_for_one_value_is_refused() -> None:
    nested: dict[str, Any] = {}
    for _ in range(12):
        nested = {
            "properties": {"a": nested},
            "allOf": [{"properties": {"a": {"minimum": 1}}}],
            "unevaluatedProperties": False,
        }
    with pytest.raises(InvalidRequest, match="parts of it apply to one value"):
        check_schema(nested)
